"""What the server reads of a ClientHello before OpenSSL does."""

from __future__ import annotations

import ssl
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.tls.hello import MOST, Hello, HelloReader, Verdict


def client_hello(name: str | None, *protocols: str, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """Return what OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.maximum_version = newest
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def records(hello: bytes, sizes: list[int]) -> bytes:
    """Return the message of one record in several of these sizes, the rest in a last one."""
    message = hello[5:]
    ends = [0, *sizes, len(message)]
    parts = [message[begin:end] for begin, end in pairwise(ends)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


SAMPLE = client_hello("www.example.org", "h2", "http/1.1")


#: The same examples each time, however busy the machine is.
SETTINGS = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


class HelloTests(SynchronousTestCase):
    """Names and protocols, however the bytes come."""

    expected = Hello("www.example.org", (b"h2", b"http/1.1"))

    def test_what_openssl_sends(self) -> None:
        """Name and protocols, by TLS 1.2 and 1.3; both may be missing."""
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for name, protocols in ((None, ()), ("a.test", ()), (None, ("h2",)), ("a.test", ("acme-tls/1",))):
                hello = HelloReader().feed(client_hello(name, *protocols, newest=newest))
                self.assertEqual(hello, Hello(name, tuple(protocol.encode() for protocol in protocols)))

    def test_byte_by_byte_and_over_records(self) -> None:
        """Nothing is known before the last byte, and all with it; OpenSSL gets the same bytes."""
        for data in (SAMPLE, records(SAMPLE, [1, 3, 90, 200])):
            reader = HelloReader()
            for index in range(len(data) - 1):
                self.assertIs(reader.feed(data[index : index + 1]), Verdict.INCOMPLETE)
            self.assertEqual(reader.feed(data[-1:]), self.expected)
            self.assertEqual(reader.received, data)

    def test_more_than_the_hello(self) -> None:
        """What the client sends after its hello is kept for OpenSSL."""
        reader = HelloReader()
        self.assertEqual(reader.feed(SAMPLE + b"more"), self.expected)
        self.assertEqual(reader.received, SAMPLE + b"more")

    def test_case(self) -> None:
        """Names are compared in lower case, without a final dot."""
        hello = HelloReader().feed(SAMPLE.replace(b"www.example.org", b"WWW.Example.or."))
        self.assertEqual(hello, Hello("www.example.or", self.expected.protocols))

    def test_plain_http(self) -> None:
        """The first letter of a method is enough."""
        self.assertIs(HelloReader().feed(b"G"), Verdict.HTTP)
        self.assertIs(HelloReader().feed(b"PRI * HTTP/2.0\r\n\r\n"), Verdict.HTTP)

    def test_neither_tls_nor_http(self) -> None:
        """OpenSSL is to say what is wrong: an alert, a record that is empty or too long, another message."""
        for data in (
            b"\x80", b"\x15\x03\x01\0\x02\x02\x32", b"\x16\x03\x01\0\0", b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\0\x01\x02",
        ):  # fmt: skip
            self.assertEqual(HelloReader().feed(data), Hello(), data)

    def test_too_long(self) -> None:
        """70 KiB are refused as soon as the length is known, or when as much has come."""
        announced = b"\x16\x03\x01\x00\x04\x01" + (70 * 1024).to_bytes(3, "big")
        self.assertIs(HelloReader().feed(announced), Verdict.TOO_LONG)
        reader, verdicts = HelloReader(), []
        for _ in range(MOST // 8 + 1):  # records of a few bytes
            verdicts.append(
                reader.feed(b"\x16\x03\x01\x00\x03\x01\0\xff" if not verdicts else b"\x16\x03\x01\0\x03\0\0\0")
            )
        self.assertIs(verdicts[-1], Verdict.TOO_LONG)
        self.assertLessEqual(len(reader.received), MOST + 8)

    @SETTINGS
    @given(st.binary(max_size=600), st.lists(st.integers(1, 600), max_size=5))
    def test_any_bytes(self, data: bytes, cuts: list[int]) -> None:
        """Whatever comes, however it is divided: no exception, and all is kept for OpenSSL."""
        self._feed(data, cuts)

    @SETTINGS
    @given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=8), st.data())
    def test_changed_hellos(self, changes: list[tuple[int, int]], draw: st.DataObject) -> None:
        """The same for a hello with changed bytes, cut anywhere."""
        data = bytearray(SAMPLE)
        for index, value in changes:
            data[index] = value
        cuts = draw.draw(st.lists(st.integers(1, len(SAMPLE)), max_size=5))
        self._feed(bytes(data), cuts)

    @SETTINGS
    @given(st.lists(st.integers(1, len(SAMPLE) - 6), max_size=6, unique=True))
    def test_any_records(self, cuts: list[int]) -> None:
        """A hello means the same in whichever records it comes."""
        self.assertEqual(HelloReader().feed(records(SAMPLE, sorted(cuts))), self.expected)

    def _feed(self, data: bytes, cuts: list[int]) -> None:
        reader = HelloReader()
        ends = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        fed = b""
        for begin, end in pairwise(ends):
            fed += data[begin:end]
            verdict = reader.feed(data[begin:end])
            self.assertEqual(reader.received, fed)
            if verdict is not Verdict.INCOMPLETE:
                break
