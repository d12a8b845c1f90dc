"""Signals around the running of consumers (Channels 1: ``channels.signals``), and of the server.

Those of consumers are sent in the thread that runs the consumer, so that receivers see its database connections.
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

#: The server listens, and all its processes serve. Sent once, in a thread of the first process. Argument:
#: ``addresses``, a list of texts such as ``"http://127.0.0.1:8000/"``.
server_started = Signal()

#: A process of the server is about to take requests. Sent in its main thread: the process waits for the receivers, for
#: example to fill a cache. Argument: ``number``, 1 in the first process.
process_started = Signal()

#: A process of the server has been told to stop. Sent in a thread; connections are closed when the receivers have
#: ended, at the latest after ``--drain-timeout``. Argument: ``number``, 1 in the first process.
server_stopping = Signal()

#: A certificate that the server gets by itself (``--https``) is there, the first one or a new one. Sent in a thread of
#: the first process. Arguments: ``names``, the host names in it; ``expires``, a datetime.
certificate_renewed = Signal()
