"""Signals around the running of consumers (Channels 1: ``channels.signals``).

Sent in the thread that runs the consumer, so that receivers see its database connections.
"""

from __future__ import annotations

from django.dispatch import Signal

#: Before a consumer runs. Sender: the worker's class. Argument: ``environ``, an empty dict.
consumer_started = Signal()

#: After a consumer has ended, normally or not. Sender: the worker's class.
consumer_finished = Signal()

#: A worker begins to take messages. Sender: the worker.
worker_ready = Signal()

#: A process with workers has started; only from ``manage.py runworker``. Sender: the worker.
worker_process_ready = Signal()
