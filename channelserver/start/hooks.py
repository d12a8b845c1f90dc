"""The signals by which a project runs code when the server, or one of its processes, starts or stops.

The receivers run in the thread that each signal's text names, never in the running reactor's.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.dispatch import Signal

from channelserver.server.service import ServerService
from channelserver.signals import certificate_renewed, process_started, server_started, server_stopping


def connect_hooks(service: ServerService, number: int) -> None:
    """Have a service send the signals.

    :param number: of the process, from 1; the first one is the server's.
    """
    kind = type(service)
    service.before_start = lambda: _send(process_started, sender=kind, number=number)
    service.before_stop = lambda: _send(server_stopping, sender=kind, number=number)
    if number == 1:
        service.after_start = lambda addresses: threading.Thread(
            target=_send, args=(server_started,), kwargs={"sender": kind, "addresses": addresses}, daemon=True
        ).start()
    if service.certificates is not None:
        service.certificates.on_renewed = lambda names, pair: threading.Thread(
            target=_send,
            args=(certificate_renewed,),
            kwargs={"sender": kind, "names": names, "expires": datetime.fromtimestamp(pair.ends, UTC)},
            daemon=True,
        ).start()


def _send(signal: Signal, **arguments: Any) -> None:
    """Send a signal; an error is logged and keeps nobody from starting or stopping."""
    try:
        signal.send_robust(**arguments)
    finally:
        connections.close_all()
