"""TLS: full handshakes, with one certificate and with a hundred."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.certificates import name_of
from benchmarks.meter import Meter
from benchmarks.peers import CERTIFICATES
from benchmarks.servers import ANSWER_TIMEOUT, MeasuringError, Server
from benchmarks.site import Site
from benchmarks.work import Goal, Metric, Reading, Turn, Work

#: Clients that connect, shake hands and leave, at once.
CLIENTS = 8

_ONE, _MANY, _FILES = "channelserver-https-1", "channelserver-https-100", "channelserver-tls-cert"


class Handshakes(Work):
    """Connect, shake hands by TLS 1.3 with a P-256 key, leave.

    Each client asks for one name after the other; no session is resumed.
    """

    def __init__(self) -> None:
        super().__init__(
            "tls-handshakes",
            "full TLS handshakes",
            Site("tls", consumers=False),
            (
                Metric("rate", "handshakes/s"),
                Metric("cost", "µs", "CPU time of the server, a handshake", more_is_better=False),
            ),
            (_MANY, _ONE, _FILES),
            (Goal("rate", at_least=0.9, against=_ONE),),
        )

    @contextmanager
    def session(self, server: Server) -> Iterator[Turn]:
        """Check that each name has its certificate; a turn counts handshakes."""
        names = [name_of(number) for number in range(CERTIFICATES[server.peer.name])]
        for name in names:
            if name.encode() not in shake_hands(server.port, name):
                raise server.failure(f"has no certificate for {name}")

        def turn(seconds: int) -> Reading:
            with Meter(server) as meter:
                rate = _load(server, names, seconds) / seconds
            return Reading({"rate": rate, "cost": meter.server_seconds / meter.seconds / rate * 1e6}, meter)

        yield turn


def shake_hands(port: int, name: str, context: ssl.SSLContext | None = None) -> bytes:
    """Return the certificate that a server shows to a client that asks for a name."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT) as plain:
        with (context or client_context()).wrap_socket(plain, server_hostname=name) as secure:
            return secure.getpeercert(True) or b""


def client_context() -> ssl.SSLContext:
    """Return a client's context that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load(server: Server, names: list[str], seconds: int) -> int:
    ends = time.monotonic() + seconds
    counts, errors = [0] * CLIENTS, list[OSError]()

    def client(number: int) -> None:
        context = client_context()
        try:
            while time.monotonic() < ends:
                shake_hands(server.port, names[(number + CLIENTS * counts[number]) % len(names)], context)
                counts[number] += 1
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise MeasuringError(f"{server.peer.title}: {len(errors)} handshakes failed: {errors[0]}")
    return sum(counts)


WORKS: tuple[Work, ...] = (Handshakes(),)
