"""What consumers do that take their time, the same for every framework."""

import time

from django.db import connection

from benchmarks.apps.sizes import BURN, SLEEP


def burn() -> None:
    """Use the processor, in Python code, without pause."""
    ends = time.thread_time() + BURN
    number = 1
    while time.thread_time() < ends:
        for _ in range(1000):
            number = number * 16807 % 2147483647


def sleep_in_database() -> None:
    """Run a query that takes its time, during which the thread waits without the interpreter's lock."""
    connection.ensure_connection()
    connection.connection.create_function("pause", 1, time.sleep)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pause(%s)", [SLEEP])
        cursor.fetchall()
