"""A client of HTTP/2 for tests, on one connection, which can also misbehave.

It reads only when told to, and opens its windows only if wanted.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from tests.certificates import client_context
from tests.process import TIMEOUT, Server


class Answer:
    """What has come on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.informational: list[str] = []
        self.body = bytearray()
        self.ended = False
        #: The error code of RST_STREAM.
        self.reset: int | None = None

    @property
    def status(self) -> int:
        """The status, 0 if there is none yet."""
        return int(self.headers.get(":status", 0))

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.ended or self.reset is not None


class HTTP2Client:
    """One connection.

    :param server: where to.
    :param certificate: path of the server's certificate.
    :param settings: of the client.
    """

    def __init__(self, server: Server, certificate: str, settings: dict[int, int] | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        self.socket: ssl.SSLSocket = client_context(certificate, "h2").wrap_socket(plain, server_hostname="localhost")
        self.authority = f"localhost:{server.port}"
        self.state = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, Answer] = {}
        self.events: list[Event] = []
        #: The error code of GOAWAY.
        self.goaway: int | None = None
        self.closed = False
        #: Whether windows are opened for what has come.
        self.takes = True
        if settings:
            self.state.local_settings.update(settings)  # type: ignore[arg-type]
            self.state.local_settings.acknowledge()
        self.state.initiate_connection()
        self.flush()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def flush(self) -> None:
        """Send what h2 has ready."""
        self.socket.sendall(self.state.data_to_send())

    def fields(self, method: str, path: str, extra: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """The header fields of a request."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        return pseudo + list(extra)

    def send(self, path: str, method: str = "GET", extra: Iterable[tuple[str, str]] = (), ended: bool = True) -> int:
        """Send a request's head; return its stream."""
        return self.send_fields(self.fields(method, path, extra), ended)

    def send_fields(self, fields: list[tuple[str, str]], ended: bool = True) -> int:
        """Send any header fields on a new stream."""
        number = self.state.get_next_available_stream_id()
        self.answers[number] = Answer()
        self.state.send_headers(number, fields, end_stream=ended)
        self.flush()
        return number

    def upload(self, number: int, data: bytes, ended: bool = True) -> None:
        """Send a body, as fast as the server's windows allow."""
        view = memoryview(data)
        while view:
            self.wait(lambda: self.state.local_flow_control_window(number) > 0 or self.answers[number].over)
            if self.answers[number].over:
                return
            size = min(len(view), self.state.local_flow_control_window(number), self.state.max_outbound_frame_size)
            self.state.send_data(number, bytes(view[:size]), end_stream=ended and size == len(view))
            view = view[size:]
            self.flush()

    def get(self, path: str, method: str = "GET", extra: Iterable[tuple[str, str]] = ()) -> Answer:
        """Send a request without a body, return the whole answer."""
        return self.finish(self.send(path, method, extra))

    def finish(self, number: int) -> Answer:
        """Wait for the end of an answer."""
        answer = self.answers[number]
        self.wait(lambda: answer.over)
        return answer

    def wait(self, condition: Callable[[], Any]) -> None:
        """Read until `condition` is true."""
        while not condition():
            if self.closed:
                raise AssertionError(f"connection closed, GOAWAY {self.goaway}")
            self.read()

    def wait_goaway(self) -> int:
        """Wait until the server has ended the connection; return the error code of its GOAWAY."""
        while not self.closed:
            self.read()
        if self.goaway is None:
            raise AssertionError("closed without GOAWAY")
        return self.goaway

    def read(self) -> None:
        """Read once."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            data = b""
        if not data:
            self.closed = True
            return
        # h2 takes the connection for closed at a GOAWAY, so that frame is read here.
        for frame in self._frames(data):
            if frame[3] == 7:
                self.goaway = int.from_bytes(frame[13:17], "big")
                continue
            for event in self.state.receive_data(frame):
                self._handle(event)
        try:
            self.flush()
        except OSError:
            pass

    _rest = b""

    def _frames(self, data: bytes) -> Iterable[bytes]:
        self._rest += data
        while len(self._rest) >= 9:
            end = 9 + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < end:
                return
            frame, self._rest = self._rest[:end], self._rest[end:]
            yield frame

    def _handle(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ResponseReceived):
            self.answers[event.stream_id or 0].headers = dict(event.headers or ())  # type: ignore[arg-type]
        elif isinstance(event, InformationalResponseReceived):
            self.answers[event.stream_id or 0].informational.append(str(dict(event.headers or ())[":status"]))  # type: ignore[call-overload]
        elif isinstance(event, DataReceived):
            self.answers[event.stream_id or 0].body += event.data or b""
            if self.takes and event.flow_controlled_length:
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
        elif isinstance(event, StreamEnded):
            self.answers[event.stream_id or 0].ended = True
        elif isinstance(event, StreamReset):
            self.answers[event.stream_id or 0].reset = int(event.error_code or 0)
        elif isinstance(event, ConnectionTerminated):
            raise AssertionError("GOAWAY is read before")


INITIAL_WINDOW = int(SettingCodes.INITIAL_WINDOW_SIZE)
