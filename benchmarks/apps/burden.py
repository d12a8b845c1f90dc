"""The work of slow consumers and views, the same for every framework."""

import time

from django.db import connection

from benchmarks.apps.sizes import BURN, SLEEP, STEPS


def compute(steps: int) -> None:
    """Use the CPU, in Python code, without pause."""
    number = 1
    for _ in range(steps):
        number = number * 16807 % 2147483647


def compute_a_little() -> None:
    """Compute the same each time, however long it takes."""
    compute(STEPS)


def burn() -> None:
    """Compute for some time."""
    ends = time.thread_time() + BURN
    while time.thread_time() < ends:
        compute(1000)


def sleep_in_database() -> None:
    """Run a slow query, during which the thread waits without the interpreter's lock."""
    connection.ensure_connection()
    connection.connection.create_function("pause", 1, time.sleep)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pause(%s)", [SLEEP])
        cursor.fetchall()
