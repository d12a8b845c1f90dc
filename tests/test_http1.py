"""Reading HTTP/1.1 requests. The sections are those of RFC 9112 unless it says RFC 9110."""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.http import http1
from channelserver.server.http.http1 import (
    MAX_FIELDS,
    SHORT_LINE,
    BadRequest,
    ChunkedBody,
    LengthBody,
    RequestHead,
    body_reader,
    parse_head,
)
from tests import examples

SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=examples(80), suppress_health_check=[HealthCheck.too_slow]
)


class HeadTestCase(SynchronousTestCase):
    """Reads heads."""

    def head(self, line: str = "GET / HTTP/1.1", *fields: str, host: bool = True) -> RequestHead:
        """Return the head with this request line and these fields, and a Host field."""
        return parse_head("\r\n".join([line, *(["Host: a"] if host else []), *fields]).encode("latin-1"))

    def refusal(self, line: str = "GET / HTTP/1.1", *fields: str, host: bool = True, status: int = 400) -> str:
        """Assert that such a head is refused with `status`; return why."""
        with self.assertRaises(BadRequest, msg=f"{line!r} {fields!r}") as caught:
            self.head(line, *fields, host=host)
        self.assertEqual(caught.exception.status, status, (line, fields))
        self.assertTrue(caught.exception.reason.isprintable())
        return caught.exception.reason


class RequestLineTests(HeadTestCase):
    """Section 3: method, target, version."""

    def test_parts(self) -> None:
        """Method, path, query string and version are found."""
        head = self.head("POST /a/b?c=d&e HTTP/1.1")
        self.assertEqual((head.method, head.path, head.query_string, head.version), ("POST", "/a/b", b"c=d&e", "1.1"))

    def test_methods(self) -> None:
        """Section 3.1: known and unknown methods in upper case are read; all else is refused."""
        for method in ("GET", "HEAD", "OPTIONS", "M-SEARCH", "X", "VERSION_CONTROL2"):
            self.assertEqual(self.head(f"{method} / HTTP/1.1").method, method)
        for method in ("get", "", "-GET", "1GET", "GE(T", "G\xc9T", "GET\t", "G" * 33):
            self.refusal(f"{method} / HTTP/1.1")

    def test_single_blanks(self) -> None:
        """Section 3: one blank stands between the parts, and no other white space."""
        for line in (
            "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET\t/ HTTP/1.1", " GET / HTTP/1.1", "GET / HTTP/1.1 ",
            "GET /a b HTTP/1.1", "GET /\x0b HTTP/1.1", "GET / \rHTTP/1.1",
        ):  # fmt: skip
            self.refusal(line)

    def test_incomplete(self) -> None:
        """A request line has three parts: HTTP/0.9 is not spoken."""
        for line in ("", "GET", "GET /", "GET / ", "GET HTTP/1.1", "/ HTTP/1.1"):
            self.refusal(line)

    def test_version(self) -> None:
        """Section 2.3: 1.0 and 1.1 are spoken, a later 1.x as 1.1; the name is in upper case, the numbers one digit."""
        for version, read in (("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.1"), ("1.9", "1.1")):
            self.assertEqual(self.head(f"GET / HTTP/{version}").version, read)
        for line in (
            "http/1.1",
            "HTTP/1",
            "HTTP/1.",
            "HTTP/.1",
            "HTTP/11",
            "HTTP/1.10",
            "HTTP/01.1",
            "HTTP/1,1",
            "HTTPS/1.1",
        ):
            self.refusal(f"GET / {line}")

    def test_other_major_versions(self) -> None:
        """RFC 9110 section 15.6.6: another major version is answered with 505."""
        for version in ("0.9", "2.0", "3.0"):
            self.refusal(f"GET / HTTP/{version}", status=505)

    def test_bare_line_ends(self) -> None:
        """Section 2.2: CR and LF stand for a line's end together or not at all."""
        for data in (
            b"GET / HTTP/1.1\nHost: a", b"GET / HTTP/1.1\rHost: a", b"GET / HTTP/1.1\r\nHost: a\nX: b",
            b"GET / HTTP/1.1\r\nHost: a\rX: b", b"GET / HTTP/1.1\r\nHost: a\r\n\rX: b", b"GET / HTTP/1.1\r\n\nHost: a",
            b"GET / HTTP/1.1\r\r\nHost: a",
        ):  # fmt: skip
            self.assertRaises(BadRequest, parse_head, data)


class TargetTests(HeadTestCase):
    """Section 3.2: the forms of a request target, and RFC 3986."""

    def path(self, target: str) -> str:
        """Return the path read from a target."""
        return self.head(f"GET {target} HTTP/1.1").path

    def test_percent_decoding(self) -> None:
        """A path is percent-decoded, once, as UTF-8; '+' stays."""
        for target, path in (
            ("/%41", "/A"), ("/a%20b", "/a b"), ("/%E2%98%83", "/☃"), ("/%e2%98%83", "/☃"), ("/a+b", "/a+b"),
            ("/%2541", "/%41"), ("/%2Fa", "//a"), ("/%3F", "/?"), ("/%23", "/#"), ("/%00", "/\x00"),
        ):  # fmt: skip
            self.assertEqual(self.path(target), path)

    def test_no_utf8(self) -> None:
        """What is not UTF-8 stays percent-encoded, in upper case; the rest is decoded."""
        for target, path in (
            ("/%ff", "/%FF"), ("/%41%c3", "/A%C3"), ("/%C3%28%41", "/%C3(A"), ("/%e2%98/%E2%98%83", "/%E2%98/☃"),
            ("/%ED%A0%80", "/%ED%A0%80"), ("/%C0%AF", "/%C0%AF"),
        ):  # fmt: skip
            self.assertEqual(self.path(target), path)

    def test_wrong_percents(self) -> None:
        """A percent sign without two hexadecimal digits stays as it is."""
        for target in ("/%", "/%4", "/%zz", "/a%"):
            self.assertEqual(self.path(target), target)

    def test_query_string(self) -> None:
        """The query string is bytes, as they came; only the first '?' begins it."""
        for target, query in (("/?a=%41+b", b"a=%41+b"), ("/?", b""), ("/?a?b", b"a?b"), ("/", b"")):
            self.assertEqual(self.head(f"GET {target} HTTP/1.1").query_string, query)

    def test_odd_paths(self) -> None:
        """Paths are not interpreted: dots and double slashes stay."""
        for target in ("//a/b", "/../a", "/a/./b", "/;x", "/:", "/@", "/http://b/"):
            self.assertEqual(self.path(target), target)

    def test_no_other_characters(self) -> None:
        """Only visible ASCII is allowed in a target, and no fragment."""
        for target in ("/\xe9", "/\x7f", "/\x00", "/a#b", "/#"):
            self.refusal(f"GET {target} HTTP/1.1")

    def test_absolute_form(self) -> None:
        """Section 3.2.2: an absolute target counts, and its host instead of the Host field."""
        for target, path, query, host in (
            ("http://b/c?d", "/c", b"d", b"b"), ("HTTPS://b:8000/c", "/c", b"", b"b:8000"),
            ("http://b", "/", b"", b"b"), ("http://b?d", "/", b"d", b"b"), ("http://[::1]:80/", "/", b"", b"[::1]:80"),
            ("http://b//c", "//c", b"", b"b"),
        ):  # fmt: skip
            head = self.head(f"GET {target} HTTP/1.1", "X: y")
            self.assertEqual((head.path, head.query_string, head.fields[b"host"]), (path, query, host))
            self.assertEqual(head.headers, [[b"host", host], [b"x", b"y"]])

    def test_absolute_form_refused(self) -> None:
        """RFC 9110 section 4.2: other schemes, user information and malformed hosts are refused."""
        for target in (
            "ftp://b/", "http:///c", "http:b", "http://", "http://u@b/", "http://u:p@b/", "http://b c/",
            "http://[::1/", "http://b:x/", "httpx://b/", "http://b:80:80/", "http://b\\c/", "http://b/#c",
        ):  # fmt: skip
            self.refusal(f"GET {target} HTTP/1.1")

    def test_absolute_form_with_empty_host(self) -> None:
        """RFC 9110 section 4.2.1: an http URI without a host's name must be refused."""
        self.refusal("GET http://:80/ HTTP/1.1")

    def test_absolute_form_excuses_no_host_field(self) -> None:
        """Section 3.2: the Host field must be there, once and well-formed, whatever the target."""
        self.refusal("GET http://b/ HTTP/1.1", host=False)
        self.refusal("GET http://b/ HTTP/1.1", "Host: c d", host=False)
        self.refusal("GET http://b/ HTTP/1.1", "Host: c", host=True)

    def test_asterisk_form(self) -> None:
        """Section 3.2.4: '*' is for OPTIONS alone."""
        self.assertEqual(self.head("OPTIONS * HTTP/1.1").path, "*")
        self.refusal("GET * HTTP/1.1")
        self.refusal("OPTIONS *a HTTP/1.1")

    def test_authority_form(self) -> None:
        """Section 3.2.3: CONNECT is not implemented, and its form of target is for no other method."""
        self.refusal("CONNECT b:443 HTTP/1.1", status=501)
        self.refusal("GET b:443 HTTP/1.1")

    def test_relative_target(self) -> None:
        """A target which begins with neither a slash nor a scheme is refused."""
        for target in ("a", "a/b", "?a", ".", "../a"):
            self.refusal(f"GET {target} HTTP/1.1")


class FieldTests(HeadTestCase):
    """Section 5: header fields."""

    def test_order_and_case(self) -> None:
        """Names are in lower case, values as they came; order and repetitions are kept."""
        head = self.head("GET / HTTP/1.1", "X-A: One", "x-a:Two", "X-B:\t three \t", "X-C:")
        self.assertEqual(
            head.headers, [[b"host", b"a"], [b"x-a", b"One"], [b"x-a", b"Two"], [b"x-b", b"three"], [b"x-c", b""]]
        )
        self.assertEqual(head.fields[b"x-a"], b"One")

    def test_names(self) -> None:
        """Section 5.1: a name is a token, and no white space stands before the colon."""
        self.assertIn(b"!#$%&'*+-.^_`|~09az", self.head("GET / HTTP/1.1", "!#$%&'*+-.^_`|~09aZ: x").fields)
        for line in (
            "X : y",
            "X\t: y",
            ": y",
            "X Y: z",
            "X",
            "X(: y",
            "X\xe9: y",
            'X": y',
            "X/Y: z",
            "X\x00: y",
            "X@: y",
        ):
            self.refusal("GET / HTTP/1.1", line)

    def test_folded_lines(self) -> None:
        """Section 5.2: a line that goes on in the next one is refused."""
        self.refusal("GET / HTTP/1.1", "X: a", " b")
        self.refusal("GET / HTTP/1.1", "X: a", "\tb: c")
        self.refusal("GET / HTTP/1.1", " X: a")

    def test_values(self) -> None:
        """RFC 9110 section 5.5: visible characters, blanks, tabs, bytes beyond ASCII are allowed; controls are not."""
        self.assertEqual(self.head("GET / HTTP/1.1", "X: a\tb c\xe9\xff~").fields[b"x"], b"a\tb c\xe9\xff~")
        for control in [*range(9), *range(10, 32), 127]:
            self.refusal("GET / HTTP/1.1", f"X: a{chr(control)}b")

    def test_number_of_fields(self) -> None:
        """RFC 6585 section 5: more fields than the limit are answered with 431."""
        self.head("GET / HTTP/1.1", *["X: y"] * (MAX_FIELDS - 1))
        self.refusal("GET / HTTP/1.1", *["X: y"] * MAX_FIELDS, status=431)

    def test_tokens(self) -> None:
        """The values of a list are found in all fields of its name, in lower case, without blanks and empty ones."""
        head = self.head("GET / HTTP/1.1", "X: A, b ,,C", "Y: d", "x: e")
        self.assertEqual(head.tokens(b"x"), {b"a", b"b", b"c", b"e"})
        self.assertEqual(head.tokens(b"z"), set())

    def test_fields_that_must_be_single(self) -> None:
        """A second field which would change how the request is read is refused, also if it says the same."""
        for line in ("Host: a", "Content-Type: text/plain"):
            self.refusal("GET / HTTP/1.1", line, line)
        self.refusal("POST / HTTP/1.1", "Content-Length: 5", "content-length: 5")
        self.refusal("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
        self.head("GET / HTTP/1.1", "Cookie: a", "Cookie: b", "Accept: x", "Accept: y")


class HostTests(HeadTestCase):
    """Section 3.2 and RFC 9110 section 7.2: the Host field."""

    def test_needed(self) -> None:
        """HTTP/1.1 needs one, HTTP/1.0 does not."""
        self.refusal("GET / HTTP/1.1", host=False)
        self.refusal("GET / HTTP/1.2", host=False)
        self.assertNotIn(b"host", self.head("GET / HTTP/1.0", host=False).fields)

    def test_well_formed(self) -> None:
        """Names, addresses and ports are allowed, and an empty field."""
        for host in ("a", "a.b-c_d:8000", "127.0.0.1", "[::1]", "[::1]:80", "a:", "", "xn--mnchen-3ya.de"):
            head = self.head("GET / HTTP/1.1", f"Host: {host}", host=False)
            self.assertEqual(head.fields[b"host"], host.encode())

    def test_malformed(self) -> None:
        """Lists, paths, user information and the like are refused."""
        for host in (
            "a b",
            "a,b c",
            "a/b",
            "u@a",
            "a:80:80",
            "a:x",
            "[::1",
            "::1",
            "a#b",
            "a?b",
            "\xe9",
            "a\\b",
            "http://a",
        ):
            self.refusal("GET / HTTP/1.1", f"Host: {host}", host=False)
            self.refusal("GET / HTTP/1.0", f"Host: {host}", host=False)


class FramingTests(HeadTestCase):
    """Section 6: where the body ends."""

    def test_none(self) -> None:
        """Without a field that says so, there is no body, whatever the method."""
        for method in ("GET", "POST", "PUT"):
            self.assertEqual(self.head(f"{method} / HTTP/1.1").length, 0)

    def test_content_length(self) -> None:
        """Section 6.2: a number of bytes, in digits."""
        for value, length in (("0", 0), ("7", 7), ("007", 7), ("9" * 18, 10**18 - 1)):
            self.assertEqual(self.head("POST / HTTP/1.1", f"Content-Length: {value}").length, length)
        for value in ("", "-1", "+1", "1.0", "0x10", "1 2", "1,1", "5, 5", "1e3", "a", "\xb2", "1_000", "9" * 19, "5;"):
            self.refusal("POST / HTTP/1.1", f"Content-Length: {value}")

    def test_chunked(self) -> None:
        """Section 7.1: chunked, in whatever case, and nothing else, is understood."""
        for value in ("chunked", "Chunked", " CHUNKED "):
            self.assertIsNone(self.head("POST / HTTP/1.1", f"Transfer-Encoding: {value}").length)
        for value in (
            "",
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "chunked, gzip",
            "identity",
            "xchunked",
            "chunked;a",
            "\x0bchunked",
        ):
            self.refusal("POST / HTTP/1.1", f"Transfer-Encoding: {value}")

    def test_both(self) -> None:
        """Section 6.1: a length and chunks at once, in whatever order, are refused."""
        self.refusal("POST / HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked")
        self.refusal("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 5")
        self.refusal("POST / HTTP/1.1", "Transfer-Encoding: identity", "Content-Length: 5")

    def test_chunks_in_an_old_request(self) -> None:
        """Section 6.1: HTTP/1.0 knows no chunks."""
        self.refusal("POST / HTTP/1.0", "Transfer-Encoding: chunked")

    def test_aliases_mean_nothing(self) -> None:
        """Names with underscores are other names: they end no body."""
        head = self.head("POST / HTTP/1.1", "Content_Length: 5", "Transfer_Encoding: chunked")
        self.assertEqual(head.length, 0)


class ConnectionTests(HeadTestCase):
    """Section 9 and RFC 9110 section 10.1.1: what becomes of the connection."""

    def test_kept_alive(self) -> None:
        """HTTP/1.1 keeps the connection unless told to close it; HTTP/1.0 closes it unless told to keep it."""
        for version, value, kept in (
            ("1.1", None, True), ("1.1", "close", False), ("1.1", "Close", False), ("1.1", "x, close", False),
            ("1.1", "keep-alive", True), ("1.1", "keep-alive, close", False), ("1.1", "closed", True),
            ("1.0", None, False), ("1.0", "keep-alive", True), ("1.0", "Keep-Alive", True), ("1.0", "close", False),
            ("1.0", "keep-alive, close", False),
        ):  # fmt: skip
            fields = [f"Connection: {value}"] if value else []
            self.assertEqual((value, self.head(f"GET / HTTP/{version}", *fields).keep_alive), (value, kept))
        self.assertFalse(self.head("GET / HTTP/1.1", "Connection: keep-alive", "Connection: close").keep_alive)

    def test_expectation(self) -> None:
        """A client of HTTP/1.1 may wait for 100; one of HTTP/1.0 may not; other expectations are answered with 417."""
        self.assertFalse(self.head().expects_continue)
        self.assertTrue(self.head("POST / HTTP/1.1", "Expect: 100-continue").expects_continue)
        self.assertTrue(self.head("POST / HTTP/1.1", "Expect: 100-Continue").expects_continue)
        self.assertFalse(self.head("POST / HTTP/1.0", "Expect: 100-continue").expects_continue)
        self.refusal("POST / HTTP/1.1", "Expect: 200-ok", status=417)


class OrderTests(HeadTestCase):
    """What is wrong with the first line is told first."""

    def test_tunnel(self) -> None:
        """A proxy's request is told that this is none, whatever its fields are."""
        self.refusal("CONNECT a:443 HTTP/1.1", host=False, status=501)
        self.refusal("CONNECT a:443 HTTP/1.1", "Expect: x", status=501)

    def test_target(self) -> None:
        """So is a malformed target."""
        self.assertIn("target", self.refusal("GET foo HTTP/1.1", "Expect: x"))


class KnownLineTests(HeadTestCase):
    """What has been read from a request line is remembered."""

    def test_short(self) -> None:
        """It gives the same head again, whatever has become of the first one."""
        for _ in range(2):
            head = parse_head(b"GET http://other/%41?b HTTP/1.0\r\nHost: a")
            self.assertEqual((head.method, head.path, head.query_string, head.version), ("GET", "/A", b"b", "1.0"))
            self.assertEqual(head.fields[b"host"], b"other")
            head.path = head.method = head.version = ""

    def test_wrong(self) -> None:
        """A wrong one stays wrong."""
        for _ in range(2):
            self.assertRaises(BadRequest, parse_head, b"GET  / HTTP/1.1\r\nHost: a")

    def test_bounded(self) -> None:
        """Long ones are not remembered."""
        before = http1._read_short_line.cache_info()
        for size in (SHORT_LINE, SHORT_LINE + 1):
            line = b"GET /" + uuid.uuid4().hex.encode().ljust(size - 14, b"x") + b" HTTP/1.1"
            self.assertEqual(len(line), size)
            parse_head(line + b"\r\nHost: a")
        after = http1._read_short_line.cache_info()
        self.assertEqual(after.misses - before.misses, 1)
        self.assertLessEqual(after.maxsize, 1000)


class KnownSectionTests(HeadTestCase):
    """Fields that are the same as those of the request before are not read twice."""

    FIELDS = b"Host: a\r\nX-A: b\r\nConnection: keep-alive"

    def after(self, line: bytes, fields: bytes = FIELDS, before: bytes = b"GET / HTTP/1.1\r\n" + FIELDS) -> RequestHead:
        """Return a head that follows another one on the same connection."""
        return parse_head(line + b"\r\n" + fields, known=parse_head(before).section)

    def test_same(self) -> None:
        """The head is what it would be if it were the first one; the fields are shared."""
        first = parse_head(b"GET /1 HTTP/1.1\r\n" + self.FIELDS)
        second = self.after(b"POST /2?3 HTTP/1.1", before=b"GET /1 HTTP/1.1\r\n" + self.FIELDS)
        self.assertEqual((second.method, second.path, second.query_string), ("POST", "/2", b"3"))
        self.assertEqual((second.headers, second.fields), (first.headers, first.fields))
        again = parse_head(b"GET /1 HTTP/1.1\r\n" + self.FIELDS, known=first.section)
        self.assertIs(again.headers, first.headers)

    def test_other_fields(self) -> None:
        """Others are read, however little differs."""
        self.assertEqual(self.after(b"GET / HTTP/1.1", self.FIELDS.replace(b"b", b"c")).fields[b"x-a"], b"c")
        for fields in (self.FIELDS + b"\r\nHost: a", self.FIELDS + b" \x00", b"", self.FIELDS + b"\r\n"):
            self.assertRaises(BadRequest, self.after, b"GET / HTTP/1.1", fields)

    def test_other_version(self) -> None:
        """What the fields say depends on the version."""
        chunked = b"Host: a\r\nTransfer-Encoding: chunked"
        before = b"POST / HTTP/1.1\r\n" + chunked
        self.assertRaises(BadRequest, self.after, b"POST / HTTP/1.0", chunked, before)
        self.assertIs(self.after(b"GET / HTTP/1.0", b"Host: a", b"GET / HTTP/1.1\r\nHost: a").keep_alive, False)

    def test_nothing_sticks(self) -> None:
        """What is done to one head is not done to the next."""
        section = parse_head(b"GET / HTTP/1.1\r\n" + self.FIELDS).section
        absolute = parse_head(b"GET http://other/ HTTP/1.1\r\n" + self.FIELDS, known=section)
        self.assertEqual((absolute.fields[b"host"], absolute.headers[0]), (b"other", [b"host", b"other"]))
        absolute.keep_alive = False
        for known in (section, absolute.section):
            head = parse_head(b"GET / HTTP/1.1\r\n" + self.FIELDS, known=known)
            self.assertEqual((head.fields[b"host"], head.headers[0]), (b"a", [b"host", b"a"]))
            self.assertTrue(head.keep_alive)


class RobustnessTests(SynchronousTestCase):
    """Whatever comes."""

    @SETTINGS
    @given(st.binary(max_size=200))
    def test_noise(self, data: bytes) -> None:
        """Any bytes are read or refused; no other exception comes out."""
        try:
            parse_head(data)
        except BadRequest as error:
            self.assertIn(error.status, (400, 417, 431, 501, 505))

    @SETTINGS
    @given(st.text("GET/ HTP1.\r\nhost:a,0 chunked-lgtrfe\x00\xff%", max_size=120))
    def test_near_misses(self, text: str) -> None:
        """Nor out of bytes that look like a request."""
        data = b"GET / HTTP/1.1\r\nHost: a\r\n" + text.encode("latin-1")
        try:
            head = parse_head(data)
        except BadRequest:
            return
        for name, value in head.headers:
            self.assertNotRegex(name + value, rb"[\r\n\x00]")


def feed(reader: Any, pieces: list[bytes]) -> tuple[Any, ...]:
    """Feed a reader; return the body, what follows it, and the status if it was refused.

    What follows is None if the body has not ended.
    """
    body, rest = b"", None
    for index, piece in enumerate(pieces):
        try:
            parts, rest = reader.feed(piece)
        except BadRequest as error:
            return ("refused", error.status)
        body += b"".join(parts)
        if rest is not None:
            return (body, rest + b"".join(pieces[index + 1 :]))
    return (body, None)


def split(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data`, cut at these places."""
    ends = sorted({min(place, len(data)) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


class LengthBodyTests(SynchronousTestCase):
    """Section 6.2: bodies of known length."""

    def test_pieces(self) -> None:
        """However it comes, the body is the same, and what follows is not taken."""
        for size in (1, 2, 3, 7, 20):
            pieces = [b"hello worldNEXT"[start : start + size] for start in range(0, 15, size)]
            self.assertEqual(feed(LengthBody(11), pieces), (b"hello world", b"NEXT"))

    def test_unfinished(self) -> None:
        """A body that is not whole says so."""
        self.assertEqual(feed(LengthBody(11), [b"hello ", b"worl"]), (b"hello worl", None))
        self.assertEqual(feed(LengthBody(11), [b""]), (b"", None))

    def test_exact_end(self) -> None:
        """A body that ends with its last byte is over, and nothing follows."""
        self.assertEqual(feed(LengthBody(5), [b"he", b"llo"]), (b"hello", b""))

    def test_choice(self) -> None:
        """The reader is chosen by the head."""
        head = RequestHead()
        head.length = 3
        self.assertIsInstance(body_reader(head), LengthBody)
        head.length = None
        self.assertIsInstance(body_reader(head), ChunkedBody)


class ChunkedBodyTests(SynchronousTestCase):
    """Section 7.1: bodies in chunks."""

    def assertBody(self, data: bytes, body: bytes, rest: bytes | None = b"") -> None:
        """Assert what is read, from the whole and from single bytes."""
        self.assertEqual(feed(ChunkedBody(), [data]), (body, rest))
        self.assertEqual(feed(ChunkedBody(), [bytes([byte]) for byte in data]), (body, rest))

    def assertRefused(self, data: bytes, status: int = 400) -> None:
        """Assert that this is refused, the whole and single bytes."""
        self.assertEqual(feed(ChunkedBody(), [data]), ("refused", status), data[:50])
        self.assertEqual(feed(ChunkedBody(), [bytes([byte]) for byte in data]), ("refused", status), data[:50])

    def test_chunks(self) -> None:
        """Chunks are put together; what follows the last one is not taken."""
        self.assertBody(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /", b"hello world", b"GET /")
        self.assertBody(b"0\r\n\r\n", b"")
        self.assertBody(b"A\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n", b"0123456789" * 2)

    def test_data_may_be_anything(self) -> None:
        """Bytes of a chunk are not looked at."""
        self.assertBody(b"9\r\n\r\n0\r\n\r\n\x00\xff\r\n0\r\n\r\n", b"\r\n0\r\n\r\n\x00\xff")

    def test_unfinished(self) -> None:
        """A body that is not whole says so, wherever it stops."""
        data = b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"
        for end in range(len(data)):
            body, rest = feed(ChunkedBody(), [data[:end]])
            self.assertIsNone(rest, data[:end])
            self.assertEqual(body, b"hello"[: max(0, end - 3)])

    def test_extensions(self) -> None:
        """Section 7.1.1: extensions are skipped, within reason."""
        self.assertBody(b'5;a=b;c="d e";f\r\nhello\r\n0;x\r\n\r\n', b"hello")
        self.assertBody(b"5 ; a\r\nhello\r\n0\r\n\r\n", b"hello")
        for line in (b"5;a\nb", b"5;a\rb", b"5;\x00", b"5;" + b"x" * 300):
            self.assertRefused(line + b"\r\nhello\r\n0\r\n\r\n")

    def test_extensions_of_a_whole_body(self) -> None:
        """Section 7.1.1: the extensions of all chunks together have a limit, too; those of a usual body keep to it."""
        chunk = b"1;" + b"x" * 200 + b"\r\na\r\n"
        self.assertBody(chunk * 50 + b"0\r\n\r\n", b"a" * 50)
        self.assertRefused(chunk * 500 + b"0\r\n\r\n")

    def test_longest_size_line(self) -> None:
        """A line of the longest length is read however it comes."""
        line = b"5;" + b"x" * 254
        self.assertBody(line + b"\r\nhello\r\n0\r\n\r\n", b"hello")
        self.assertRefused(line + b"x\r\nhello\r\n0\r\n\r\n")

    def test_sizes(self) -> None:
        """A size is one to fifteen hexadecimal digits."""
        for size in (
            b"",
            b"-5",
            b"+5",
            b"0x5",
            b"5g",
            b"g",
            b" 5",
            b"\t5",
            b"5 5",
            b"5,",
            b"0" * 16 + b"5",
            b"5_0",
            b"\xb2",
        ):
            self.assertRefused(size + b"\r\nhello\r\n0\r\n\r\n")
        self.assertBody(b"0" * 14 + b"5\r\nhello\r\n0\r\n\r\n", b"hello")

    def test_blank_after_the_size(self) -> None:
        """Section 7.1.1: white space stands only before an extension."""
        self.assertRefused(b"5 \r\nhello\r\n0\r\n\r\n")

    def test_end_of_a_chunk(self) -> None:
        """A chunk is followed by CR and LF, and by nothing else."""
        for end in (b"", b"\n", b"\r", b"x\r\n", b"\n\r", b"\r\r\n", b"\r\x00"):
            self.assertRefused(b"5\r\nhello" + end + b"5\r\nhello\r\n0\r\n\r\n")

    def test_bare_line_ends(self) -> None:
        """CR and LF stand for a line's end together or not at all."""
        for data in (
            b"5\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"0\n\r\n",
            b"0\r\n\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\n\rX",
        ):
            self.assertRefused(data + b"\r\n")

    def test_trailers(self) -> None:
        """Section 7.1.2: trailer fields are checked like others, and not passed on."""
        self.assertBody(b"5\r\nhello\r\n0\r\nX: y\r\nEtag: z\r\n\r\nNEXT", b"hello", b"NEXT")
        for line in (b"X", b"X : y", b": y", b" X: y", b"X: a\x00b", b"X: y\r\n z"):
            self.assertRefused(b"0\r\n" + line + b"\r\n\r\n")

    def test_fields_not_allowed_in_trailers(self) -> None:
        """RFC 9110 section 6.5.1: fields for framing, routing and rights have no place in trailers."""
        for name in (
            b"Content-Length",
            b"TRANSFER-ENCODING",
            b"host",
            b"Cookie",
            b"Authorization",
            b"Content-Type",
            b"Expect",
        ):
            self.assertRefused(b"0\r\n" + name + b": 1\r\n\r\n")

    def test_length_of_trailers(self) -> None:
        """RFC 6585 section 5: trailers without end are answered with 431, however they come."""
        self.assertBody(b"0\r\n" + b"X: y\r\n" * MAX_FIELDS + b"\r\n", b"")
        self.assertRefused(b"0\r\n" + b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n", status=431)
        self.assertRefused(b"0\r\n" + b"X: " + b"y" * 9000 + b"\r\n\r\n", status=431)
        self.assertRefused(b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n", status=431)

    @SETTINGS
    @given(
        st.lists(st.binary(min_size=1, max_size=40), max_size=6),
        st.booleans(),
        st.lists(st.integers(0, 300), max_size=12),
    )
    def test_any_split(self, chunks: list[bytes], trailers: bool, places: list[int]) -> None:
        """Wherever the network cuts a body into pieces, what is read is the same."""
        data = b"".join(b"%x;e\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        data += b"0\r\n" + (b"X: y\r\nZ: z\r\n" if trailers else b"") + b"\r\nNEXT"
        self.assertEqual(feed(ChunkedBody(), split(data, places)), (b"".join(chunks), b"NEXT"))

    @SETTINGS
    @given(st.text("05a;x\r\n: ", max_size=30), st.lists(st.integers(0, 40), max_size=8))
    def test_any_split_of_noise(self, text: str, places: list[int]) -> None:
        """What is wrong is wrong however it is cut: what is refused whole is refused in pieces, sooner or later."""
        data = text.encode("latin-1")
        whole, pieces = feed(ChunkedBody(), [data]), feed(ChunkedBody(), split(data, places))
        self.assertEqual(whole, pieces)
