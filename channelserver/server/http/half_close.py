"""A client has closed its side of a connection while its request is being answered: has it left, or does it wait?

Runs in the reactor thread; owns nothing.

TCP tells both in the same way, and only what is sent afterwards makes the other end say that nobody is there (RST). So
while nothing of the answer has been sent, the client gets an interim response (RFC 9110 section 15.2), which clients
of HTTP/1.1 have to accept. ``100 Continue`` is the one that all of them skip; many take others for the answer. The
kernel of a client that has left answers with RST within a round trip; a client that waits gets its answer. An idle
event stream is asked by a comment.

Other answers that have begun are broken off, as the client has closed after it saw their beginning; unless it has still
to read some of it, which tells as well. A client of HTTP/1.0 cannot be asked; it gets its answer. A trusted proxy has
left: proxies close both sides when their client leaves. So has a client over TLS, since Twisted takes a close_notify
for the end of both sides. (nginx and hyper take any closed side for a client that has left.)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from channelserver.server.common.transport import Transport

#: What is sent to find out.
PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Seconds after a probe when its effect is looked at; then comes the next.
LOOKS = (0.05, 0.15, 0.3, 0.5, 4.0)

_TCP_CLOSE = 7  # tcpi_state, the first byte of TCP_INFO; include/net/tcp_states.h of Linux


def looks() -> Iterator[tuple[float, bool]]:
    """Yield pauses in seconds until the next look, and whether a probe is due after it."""
    while True:
        for pause in LOOKS:
            yield pause, pause is LOOKS[-1]


def was_reset(transport: Transport) -> bool:
    """Whether the client's kernel has said that the connection is closed there; False if that cannot be known."""
    try:
        return bool(transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
    except (AttributeError, OSError):  # not Linux; a Unix socket, where writing fails
        return False
