"""HTTP/1.1 as RFC 9112 (and RFC 9110, where it says so) has it: one test for each requirement, on a real server.

The names of the tests begin with the section. What is refused must be refused with the right status, the connection
must be closed, and neither the request nor what follows it may reach Django.
"""

from __future__ import annotations

import json
from typing import Any

from tests.process import SharedServerTestCase, project
from tests.raw import Answer, Raw, head


class RFC9112Tests(SharedServerTestCase):
    """The sections of RFC 9112, in their order."""

    files = project("rfc9112")
    extra_settings = "ALLOWED_HOSTS = ['*']\nMIDDLEWARE = []\n"
    arguments = ("--max-header-fields", "64", "--max-header-bytes", "16384", "--threads", "4")

    def connect(self) -> Raw:
        """Open a connection; closed at the end of the test."""
        raw = Raw(self.server.port)
        self.addCleanup(raw.socket.close)
        return raw

    def refused(self, data: bytes, status: int = 400) -> Answer:
        """Check that `data` is refused, and that what follows it is not taken for a request."""
        raw = self.connect()
        raw.send(data, head("GET /smuggled HTTP/1.1"))
        answer = raw.answer()
        self.assertEqual((answer.status, answer.get("connection")), (status, "close"), (data, answer))
        self.assertTrue(raw.is_closed(), f"not closed after {data!r}")
        self.assertNotIn("/smuggled", self.server.output)
        return answer

    def accepted(self, data: bytes, raw: Raw | None = None) -> Any:
        """Check that `data` reaches the view; return what that has seen."""
        raw = raw or self.connect()
        answer = raw.send(data).answer()
        self.assertEqual(answer.status, 200, (data, answer))
        return json.loads(answer.body)

    # -- 2: messages ---------------------------------------------------------------------------------------------------

    def test_2_2_empty_lines_before_a_request_are_skipped(self) -> None:
        """At least one CRLF before the request line is ignored, also between two requests."""
        raw = self.connect()
        self.assertEqual(self.accepted(b"\r\n" + head("GET /a HTTP/1.1"), raw)["path"], "/a")
        self.assertEqual(self.accepted(b"\r\n\r\n" + head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_2_2_not_endlessly_many(self) -> None:
        """A long run of empty lines is not a request."""
        self.refused(b"\r\n" * 30000)

    def test_2_2_bare_lf_does_not_end_a_line(self) -> None:
        """A single LF, which a recipient may take for a line's end, is refused, wherever it is."""
        for data in (
            b"GET / HTTP/1.1\nHost: localhost\n\n",
            b"GET / HTTP/1.1\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\n",
            b"\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            self.refused(data)

    def test_2_2_bare_cr_is_refused(self) -> None:
        """A CR that is not followed by LF is invalid in any element."""
        for data in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nA\r: b\r\n\r\n",
            b"GET /\r HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\r\nHost: localhost\r\n\r\n",
        ):
            self.refused(data)

    def test_2_2_no_space_before_the_first_field(self) -> None:
        """Whitespace between the start line and the first field is refused."""
        self.refused(b"GET / HTTP/1.1\r\n Host: localhost\r\nA: b\r\n\r\n")
        self.refused(b"GET / HTTP/1.1\r\n \r\nHost: localhost\r\n\r\n")

    def test_2_3_version_is_two_digits(self) -> None:
        """The version is ``HTTP/`` DIGIT ``.`` DIGIT, in upper case."""
        for version in ("http/1.1", "HTTP/1", "HTTP/1.10", "HTTP/11.1", "HTTP/ 1.1", "HTTP/1.x", "HTTP1.1", "XTTP/1.1"):
            self.refused(head(f"GET / {version}"))

    def test_2_3_other_major_versions(self) -> None:
        """Another major version gets 505 (RFC 9110 section 15.6.6)."""
        self.refused(head("GET / HTTP/2.0"), 505)
        self.refused(head("GET / HTTP/0.9"), 505)
        self.refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)

    def test_2_3_higher_minor_version(self) -> None:
        """A higher minor version is read as 1.1 (RFC 9110 section 2.5)."""
        self.assertEqual(self.accepted(head("GET / HTTP/1.9"))["protocol"], "HTTP/1.1")

    def test_2_3_answers_name_our_own_version(self) -> None:
        """The answer to HTTP/1.0 is labelled with the version we speak."""
        self.assertEqual(self.connect().send(b"GET / HTTP/1.0\r\n\r\n").answer().status, 200)

    # -- 3: request line -----------------------------------------------------------------------------------------------

    def test_3_one_space_between_the_parts(self) -> None:
        """Method, target and version are parted by one SP each, and by nothing else."""
        for line in (
            "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", " GET / HTTP/1.1",
            "GET / HTTP/1.1 ", "GET / a HTTP/1.1", "GET /", "GET", "GET / HTTP/1.1\x0b", "GET /\x0cHTTP/1.1",
        ):  # fmt: skip
            self.refused(head(line))

    def test_3_1_method_is_a_token(self) -> None:
        """A method that is no token is refused; so are lower-case ones, for methods are case-sensitive."""
        for method in ("G(T", "GE\x00T", "G\xc9T", "get", "Get", "-bl", "{}", '"GET"', "GET,POST", ""):
            self.refused(head(f"{method} / HTTP/1.1"))

    def test_3_1_unknown_methods_are_the_applications_business(self) -> None:
        """A method that is not in RFC 9110 reaches the view."""
        self.assertEqual(self.accepted(head("PROPFIND / HTTP/1.1"))["method"], "PROPFIND")
        self.assertEqual(self.accepted(head("M-SEARCH / HTTP/1.1"))["method"], "M-SEARCH")

    def test_3_2_no_control_characters_or_spaces_in_a_target(self) -> None:
        """A target is visible ASCII; anything else must be percent-encoded."""
        for target in ("/a b", "/a\x00b", "/\x7f", "/\xe9", "/a\x01", "/\x1b[31m"):
            self.refused(head(f"GET {target} HTTP/1.1"))

    def test_3_2_no_fragment(self) -> None:
        """A fragment is not part of a target."""
        self.refused(head("GET /a#b HTTP/1.1"))
        self.refused(head("GET http://localhost/#b HTTP/1.1"))

    def test_3_2_missing_host(self) -> None:
        """HTTP/1.1 without Host gets 400, in absolute form, too."""
        self.refused(head("GET / HTTP/1.1", host=None))
        self.refused(head("GET http://localhost/ HTTP/1.1", host=None))

    def test_3_2_http_1_0_needs_no_host(self) -> None:
        """HTTP/1.0 has no Host field of necessity."""
        self.assertNotIn("HTTP_HOST", self.accepted(b"GET / HTTP/1.0\r\n\r\n")["headers"])

    def test_3_2_more_than_one_host(self) -> None:
        """More than one Host gets 400, though both be the same."""
        self.refused(head("GET / HTTP/1.1", "Host: localhost"))
        self.refused(head("GET / HTTP/1.1", "hOST: other"))
        self.refused(head("GET http://localhost/ HTTP/1.1", "Host: localhost"))
        self.refused(head("GET / HTTP/1.0", "Host: other"))

    def test_3_2_invalid_host(self) -> None:
        """An invalid Host gets 400, in absolute form, too."""
        for host in (
            "a b", "a/b", "a@b", "a?b", "a#b", "a:b", "a:80:80", "[::1", "::1", "[::1]x", "a\\b", "a\tb", "http://a",
            "<a>", '"a"', "a\x7f", "\xe9", "[::1]:8x",
        ):  # fmt: skip
            self.refused(head("GET / HTTP/1.1", host=host))
            self.refused(head("GET http://localhost/ HTTP/1.1", host=host))

    def test_3_2_valid_hosts(self) -> None:
        """Names and addresses, with and without a port."""
        for host in ("localhost", "a.example:8000", "127.0.0.1", "[::1]", "[::1]:8000", "xn--a-ecp.ru", "a_b.example"):
            self.assertEqual(self.accepted(head("GET / HTTP/1.1", host=host))["headers"]["HTTP_HOST"], host)

    def test_3_2_1_origin_form(self) -> None:
        """Path and query; the path is percent-decoded, the query is not."""
        seen = self.accepted(head("GET /caf%C3%A9/%25?a=%20&b=?/ HTTP/1.1"))
        self.assertEqual((seen["path"], seen["query"]), ("/café/%", "a=%20&b=?/"))
        self.assertEqual(self.accepted(head("GET //double//slash HTTP/1.1"))["path"], "//double//slash")

    def test_3_2_1_a_path_begins_with_a_slash(self) -> None:
        """A target that is none of the four forms gets 400."""
        for target in ("a", "a/b", "?a", "localhost/a", "localhost:80", "..", "*a", "%2f"):
            self.refused(head(f"GET {target} HTTP/1.1"))

    def test_3_2_2_absolute_form(self) -> None:
        """Absolute form is accepted, and its authority counts instead of Host."""
        seen = self.accepted(head("GET http://other.example:81/a?b HTTP/1.1"))
        self.assertEqual((seen["path"], seen["query"]), ("/a", "b"))
        self.assertEqual(seen["headers"]["HTTP_HOST"], "other.example:81")
        self.assertEqual(self.accepted(head("GET HTTP://a.example HTTP/1.1"))["path"], "/")
        self.assertEqual(self.accepted(head("GET http://a.example?q HTTP/1.1"))["query"], "q")

    def test_3_2_2_malformed_absolute_form(self) -> None:
        """No user information, no empty host, no other scheme."""
        for target in (
            "http://user@a/", "http://u:p@a/", "http:///a", "http://", "ftp://a/", "http:/a", "http://a b/",
            "http://a:x/", "http://[::1/", "https:a", "://a/",
        ):  # fmt: skip
            self.refused(head(f"GET {target} HTTP/1.1"))

    def test_3_2_3_authority_form_and_connect(self) -> None:
        """This server is no tunnel: CONNECT gets 501; authority form with another method 400."""
        self.refused(head("CONNECT localhost:80 HTTP/1.1"), 501)
        self.refused(head("GET localhost:80 HTTP/1.1"))

    def test_3_2_4_asterisk_form(self) -> None:
        """``*`` is for OPTIONS alone, and means the server: Django is not asked."""
        self.assertEqual(self.connect().send(head("OPTIONS * HTTP/1.1")).answer().status, 204)
        self.refused(head("GET * HTTP/1.1"))
        self.refused(head("OPTIONS *? HTTP/1.1"))

    def test_3_too_long_target(self) -> None:
        """A target longer than we want to read gets 414 (RFC 9110 section 15.5.15), whether or not it ends."""
        self.refused(head("GET /" + "a" * 17000 + " HTTP/1.1"), 414)
        raw = self.connect().send(b"GET /" + b"a" * 17000)
        self.assertEqual(raw.answer().status, 414)

    # -- 5: fields -----------------------------------------------------------------------------------------------------

    def test_5_field_names_are_tokens(self) -> None:
        """A field's name is a token, and there is one."""
        for line in (
            ": a",
            "a b: c",
            "a\x00: b",
            "a\xe9: b",
            "(a): b",
            '"a": b',
            "a",
            "a;b",
            "a[0]: b",
            "\x01a: b",
            "@: b",
        ):
            self.refused(head("GET / HTTP/1.1", line))

    def test_5_1_no_space_before_the_colon(self) -> None:
        """Whitespace between name and colon must be refused with 400."""
        for line in ("A : b", "A\t: b", "Content-Length : 5", "Transfer-Encoding : chunked"):
            self.refused(head("GET / HTTP/1.1", line))

    def test_5_1_space_around_a_value_is_not_part_of_it(self) -> None:
        """Spaces and tabs around a value are taken off."""
        self.assertEqual(self.accepted(head("GET / HTTP/1.1", "A: \t b c \t"))["headers"]["HTTP_A"], "b c")
        self.assertEqual(self.accepted(head("GET / HTTP/1.1", "A:b"))["headers"]["HTTP_A"], "b")
        self.assertEqual(self.accepted(head("GET / HTTP/1.1", "A:"))["headers"]["HTTP_A"], "")

    def test_5_2_obs_fold(self) -> None:
        """A line that goes on with whitespace is refused with 400."""
        for fold in (" c", "\tc", " ", " Transfer-Encoding: chunked"):
            self.refused(head("GET / HTTP/1.1", "A: b", fold))

    def test_9110_5_5_no_control_characters_in_values(self) -> None:
        """NUL, CR and LF are dangerous; the other control characters have no place either."""
        for character in "\x00\x01\x07\x08\x0b\x0c\x1b\x7f":
            self.refused(head("GET / HTTP/1.1", f"A: b{character}c"))

    def test_9110_5_5_other_bytes_pass(self) -> None:
        """Bytes above ASCII are opaque data, and tabs are allowed."""
        self.assertEqual(self.accepted(head("GET / HTTP/1.1", "A: \xe9\tb"))["headers"]["HTTP_A"], "\xe9\tb")

    def test_9110_5_3_repeated_fields(self) -> None:
        """Repeated fields are joined by commas, cookies by semicolons."""
        seen = self.accepted(head("GET / HTTP/1.1", "A: 1", "Cookie: a=1", "a: 2", "Cookie: b=2"))["headers"]
        self.assertEqual((seen["HTTP_A"], seen["HTTP_COOKIE"]), ("1, 2", "a=1; b=2"))

    def test_names_with_underscores_are_dropped(self) -> None:
        """``A_B`` would be taken for ``A-B`` by the application."""
        seen = self.accepted(head("POST / HTTP/1.1", "X_User: a", "Content_Length: 5", "Transfer_Encoding: chunked"))
        self.assertEqual(seen["length"], 0)
        self.assertFalse({"HTTP_X_USER", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"} & set(seen["headers"]))

    def test_5_too_many_or_too_long_fields(self) -> None:
        """More fields, or longer ones, than we want to read get 431 (RFC 6585 section 5)."""
        self.accepted(head("GET / HTTP/1.1", *["A: b"] * 63))
        self.refused(head("GET / HTTP/1.1", *["A: b"] * 64), 431)
        self.refused(head("GET / HTTP/1.1", "A: " + "b" * 17000), 431)
        raw = self.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 17000)
        self.assertEqual(raw.answer().status, 431)

    def test_9110_12_single_content_type(self) -> None:
        """A second Content-Type would let two readers see two bodies."""
        self.refused(head("POST / HTTP/1.1", "Content-Type: text/plain", "Content-Type: text/html"))

    # -- 6: body -------------------------------------------------------------------------------------------------------

    def test_6_1_transfer_encoding_and_content_length(self) -> None:
        """Both at once are refused, in either order."""
        pair = ("Transfer-Encoding: chunked", "Content-Length: 5")
        self.refused(head("POST / HTTP/1.1", *pair) + b"0\r\n\r\n")
        self.refused(head("POST / HTTP/1.1", *reversed(pair)) + b"0\r\n\r\n")
        self.refused(head("POST / HTTP/1.1", "Transfer-Encoding: identity", "Content-Length: 5") + b"hello")

    def test_6_1_unknown_coding(self) -> None:
        """A coding that is not understood is refused, also if the body's end could be told."""
        self.refused(head("POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 400)

    def test_6_3_chunked_is_not_the_last_coding(self) -> None:
        """The body's end cannot be told: 400 and closed."""
        for value in (
            "chunked, gzip", "gzip", "identity", "xchunked", "chunked;a=b", '"chunked"', "chunked, chunked", "chunked,",
            "", ",", "\x80chunked", "chunked\x80", "chunked chunked",
        ):  # fmt: skip
            self.refused(head("POST / HTTP/1.1", f"Transfer-Encoding: {value}") + b"0\r\n\r\n")

    def test_6_1_coding_names_are_case_insensitive(self) -> None:
        """``Chunked`` is ``chunked`` (section 7)."""
        seen = self.accepted(head("POST / HTTP/1.1", "Transfer-Encoding: ChunKed") + b"5\r\nhello\r\n0\r\n\r\n")
        self.assertEqual(seen["length"], 5)

    def test_6_1_repeated_transfer_encoding(self) -> None:
        """More than one Transfer-Encoding field is refused."""
        for first, second in (("chunked", "chunked"), ("identity", "chunked"), ("chunked", "identity")):
            lines = (f"Transfer-Encoding: {first}", f"Transfer-Encoding: {second}")
            self.refused(head("POST / HTTP/1.1", *lines) + b"0\r\n\r\n")

    def test_6_1_transfer_encoding_in_http_1_0(self) -> None:
        """A client of HTTP/1.0 cannot know it: the framing is faulty."""
        self.refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    def test_6_2_invalid_content_length(self) -> None:
        """Digits, and nothing else."""
        for value in (
            "",
            "+5",
            "-5",
            "5 5",
            "5,5",
            "5, 5",
            "0x5",
            "5.0",
            "five",
            "\xb2",
            "1" * 19,
            "5;",
            "1_0",
            "\x0b5",
        ):
            self.refused(head("POST / HTTP/1.1", f"Content-Length: {value}") + b"hello")

    def test_6_3_repeated_content_length(self) -> None:
        """Two lengths are refused, though both be the same."""
        for first, second in ((5, 5), (5, 6), (0, 5)):
            lines = (f"Content-Length: {first}", f"Content-Length: {second}")
            self.refused(head("POST / HTTP/1.1", *lines) + b"hello")

    def test_6_2_content_length(self) -> None:
        """The body is so many bytes, and the next request begins after them; zeros in front mean nothing."""
        raw = self.connect()
        self.assertEqual(self.accepted(head("POST / HTTP/1.1", "Content-Length: 5") + b"hello", raw)["length"], 5)
        self.assertEqual(self.accepted(head("POST / HTTP/1.1", "Content-Length: 0005") + b"hello", raw)["length"], 5)
        self.assertEqual(self.accepted(head("GET / HTTP/1.1", "Content-Length: 0"), raw)["length"], 0)

    def test_6_3_a_get_may_have_a_body(self) -> None:
        """Whether there is a body follows from the framing, never from the method."""
        raw = self.connect()
        self.assertEqual(self.accepted(head("GET / HTTP/1.1", "Content-Length: 40") + b"x" * 40, raw)["length"], 40)
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_6_3_no_framing_means_no_body(self) -> None:
        """Without either field the body is empty."""
        raw = self.connect()
        self.assertEqual(self.accepted(head("POST / HTTP/1.1"), raw)["length"], 0)
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_6_2_too_large(self) -> None:
        """A body over the limit gets 413 (RFC 9110 section 15.5.14), before it is read."""
        raw = self.connect().send(head("POST / HTTP/1.1", "Content-Length: 104857601"))
        answer = raw.answer()
        self.assertEqual((answer.status, answer.get("connection")), (413, "close"))

    # -- 7: chunked ----------------------------------------------------------------------------------------------------

    def chunked(self, body: bytes) -> bytes:
        """Return a request with a chunked body."""
        return head("POST / HTTP/1.1", "Transfer-Encoding: chunked") + body

    def test_7_1_chunks(self) -> None:
        """Chunks of any size, sizes in both cases and with zeros in front; the next request begins after the end."""
        raw = self.connect()
        body = b"1\r\na\r\n0A\r\n0123456789\r\n0000b\r\n0123456789a\r\n0\r\n\r\n"
        self.assertEqual(self.accepted(self.chunked(body), raw)["length"], 22)
        self.assertEqual(self.accepted(self.chunked(b"000\r\n\r\n"), raw)["length"], 0)
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_7_1_byte_by_byte(self) -> None:
        """Wherever the network cuts a request, it is the same."""
        raw = self.connect()
        for byte in self.chunked(b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n"):
            raw.send(bytes((byte,)))
        self.assertEqual(json.loads(raw.answer().body)["length"], 6)
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_7_1_malformed_size(self) -> None:
        """A size is hexadecimal digits, and nothing else."""
        for size in (
            b"", b"x", b"-1", b"+5", b"0x5", b"5 5", b" 5", b"5 ", b"5\t", b"5\x00", b"5_", b"\xb2", b"5.", b"1" * 17,
            b"5\x0b", b"5,", b"5:",
        ):  # fmt: skip
            self.refused(self.chunked(size + b"\r\nhello\r\n0\r\n\r\n"))

    def test_7_1_huge_size(self) -> None:
        """A size that would overflow elsewhere is a large one here."""
        self.refused(self.chunked(b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n"))

    def test_7_1_chunk_longer_or_shorter_than_its_size(self) -> None:
        """After a chunk's data comes CRLF."""
        self.refused(self.chunked(b"4\r\nhello\r\n0\r\n\r\n"))
        self.refused(self.chunked(b"6\r\nhello\r\n0\r\n\r\n"))
        self.refused(self.chunked(b"5\r\nhello0\r\n\r\n"))

    def test_7_1_bare_lf_and_cr(self) -> None:
        """A chunk's lines end with CRLF."""
        for body in (
            b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\n\n",
            b"5\r\nhello\r\r\n0\r\n\r\n", b"5;a\nb\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nA: b\n\r\n",
            b"5;\n\r\nhello\r\n0\r\n\r\n",
        ):  # fmt: skip
            self.refused(self.chunked(body))

    def test_7_1_1_extensions_are_ignored(self) -> None:
        """Extensions that are not understood are ignored."""
        body = b'5;a;b=c;d="e f"\r\nhello\r\n0 ;x=y\r\n\r\n'
        self.assertEqual(self.accepted(self.chunked(body))["length"], 5)

    def test_7_1_1_extensions_without_end(self) -> None:
        """The extensions of one chunk, and of all, have a limit."""
        self.refused(self.chunked(b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n"))
        self.refused(self.chunked((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n"))
        raw = self.connect().send(self.chunked(b"5;" + b"a" * 2000))
        self.assertEqual(raw.answer().status, 400)

    def test_7_1_2_trailers_are_not_merged(self) -> None:
        """Trailers are read over, and do not become header fields."""
        seen = self.accepted(self.chunked(b"5\r\nhello\r\n0\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n"))
        self.assertEqual(seen["length"], 5)
        self.assertNotIn("HTTP_X_CHECKSUM", seen["headers"])

    def test_9110_6_5_1_fields_that_may_not_be_trailers(self) -> None:
        """Framing, routing and authentication have no place after the body."""
        for name in ("Content-Length", "Transfer-Encoding", "Host", "Authorization", "Cookie", "Content-Type", "TE"):
            self.refused(self.chunked(b"0\r\n" + name.encode() + b": 5\r\n\r\n"))

    def test_7_1_2_malformed_trailers(self) -> None:
        """Trailers are fields like others."""
        for line in (b"a b: c", b"a : b", b" a: b", b"a", b"a: b\x00", b": a"):
            self.refused(self.chunked(b"0\r\n" + line + b"\r\n\r\n"))

    def test_7_1_2_trailers_without_end(self) -> None:
        """Trailers have a limit."""
        self.refused(self.chunked(b"0\r\n" + b"A: b\r\n" * 5000), 431)
        raw = self.connect().send(self.chunked(b"0\r\nA: " + b"b" * 10000))
        self.assertEqual(raw.answer().status, 431)

    # -- 9: connections ------------------------------------------------------------------------------------------------

    def test_9_3_connections_persist(self) -> None:
        """HTTP/1.1 stays open; each request gets an answer."""
        raw = self.connect()
        for number in range(5):
            answer = raw.send(head(f"GET /{number} HTTP/1.1")).answer()
            self.assertIsNone(answer.get("connection"))
            self.assertEqual(json.loads(answer.body)["path"], f"/{number}")

    def test_9_3_http_1_0_closes(self) -> None:
        """HTTP/1.0 closes, unless it asks for keep-alive."""
        raw = self.connect().send(head("GET / HTTP/1.0"))
        self.assertEqual(raw.answer().get("connection"), "close")
        self.assertTrue(raw.is_closed())
        raw = self.connect()
        for number in range(3):
            answer = raw.send(head(f"GET /{number} HTTP/1.0", "Connection: Keep-Alive")).answer()
            self.assertEqual(answer.get("connection"), "keep-alive")
            self.assertEqual(json.loads(answer.body)["path"], f"/{number}")

    def test_9_3_http_1_0_stream_ends_with_the_connection(self) -> None:
        """A client of HTTP/1.0 gets no chunks (section 6.1)."""
        raw = self.connect().send(head("GET /stream HTTP/1.0", "Connection: keep-alive"))
        answer = raw.answer()
        self.assertEqual((answer.get("transfer-encoding"), answer.body), (None, b"one two three"))

    def test_9_3_2_pipelined_answers_come_in_order(self) -> None:
        """Answers are sent in the order of the requests, and never mixed, though a later one be ready first."""
        raw = self.connect()
        raw.send(head("GET /gate/a HTTP/1.1"), head("GET /b HTTP/1.1"), head("GET /stream HTTP/1.1"))
        raw.send(head("POST /c HTTP/1.1", "Content-Length: 3"), b"abc", self.chunked(b"2\r\nhi\r\n0\r\n\r\n"))
        raw.send(head("GET /long HTTP/1.1"), head("GET /d HTTP/1.1"))
        self.assertTrue(raw.is_quiet())
        self.connect().send(head("GET /open/a HTTP/1.1")).answer()
        self.assertEqual(raw.answer().body, b"gate a")
        self.assertEqual(json.loads(raw.answer().body)["path"], "/b")
        self.assertEqual(raw.answer().body, b"one two three")
        self.assertEqual(json.loads(raw.answer().body)["length"], 3)
        self.assertEqual(json.loads(raw.answer().body)["length"], 2)
        self.assertEqual(len(raw.answer().body), 100000)
        self.assertEqual(json.loads(raw.answer().body)["path"], "/d")

    def test_9_3_2_many_pipelined_requests(self) -> None:
        """A thousand requests in one go get a thousand answers."""
        raw = self.connect()
        raw.send(*(head(f"GET /status/2{number % 2}0 HTTP/1.1") for number in range(1000)))
        self.assertEqual([raw.answer().status for _ in range(1000)], [200, 210] * 500)

    def test_9_3_2_a_bad_request_ends_a_pipeline(self) -> None:
        """What came before it is answered; what comes after it is never read."""
        raw = self.connect()
        raw.send(head("GET /a HTTP/1.1"), head("GET /b HTTP/1.1", "Bad : field"), head("GET /smuggled HTTP/1.1"))
        self.assertEqual([raw.answer().status, raw.answer().status], [200, 400])
        self.assertTrue(raw.is_closed())
        self.assertNotIn("/smuggled", self.server.output)

    def test_9_6_close(self) -> None:
        """After ``close`` no further request is served."""
        raw = self.connect()
        raw.send(head("GET /a HTTP/1.1", "Connection: x, Close"), head("GET /smuggled HTTP/1.1"))
        self.assertEqual(raw.answer().get("connection"), "close")
        self.assertTrue(raw.is_closed())
        self.assertNotIn("/smuggled", self.server.output)

    def test_9_6_close_beats_keep_alive(self) -> None:
        """``close`` and ``keep-alive`` together are ``close``."""
        raw = self.connect().send(head("GET / HTTP/1.1", "Connection: keep-alive, close"))
        self.assertEqual(raw.answer().get("connection"), "close")
        self.assertTrue(raw.is_closed())

    def test_9_6_a_client_that_closes_its_side_gets_its_answer_broken_off(self) -> None:
        """Half a request, then the end: nothing reaches Django."""
        raw = self.connect().send(head("POST /smuggled HTTP/1.1", "Content-Length: 10") + b"hello")
        raw.socket.shutdown(1)
        self.assertEqual(raw.rest(), b"")
        self.assertNotIn("/smuggled", self.server.output)

    # -- RFC 9110: what follows from methods, expectations and statuses ------------------------------------------------

    def test_9110_9_3_2_head(self) -> None:
        """The answer to HEAD has no body, and the length of the one that GET would have got."""
        raw = self.connect()
        for path, length in (("/long", "100000"), ("/status/200", "4")):
            answer = raw.send(head(f"HEAD {path} HTTP/1.1")).answer("HEAD")
            self.assertEqual((answer.status, answer.get("content-length")), (200, length))
        self.assertEqual(raw.send(head("HEAD /stream HTTP/1.1")).answer("HEAD").status, 200)
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_9110_10_1_1_continue(self) -> None:
        """A client that waits for 100 gets it, once, and then its answer."""
        raw = self.connect().send(head("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-Continue"))
        self.assertEqual(raw.answer().status, 100)
        self.assertEqual(json.loads(raw.send(b"hello").answer().body)["length"], 5)
        raw.send(head("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        self.assertEqual(raw.answer().status, 100)
        self.assertEqual(json.loads(raw.send(b"1\r\na\r\n0\r\n\r\n").answer().body)["length"], 1)

    def test_9110_10_1_1_no_continue_where_none_is_needed(self) -> None:
        """Not if the body is there already, nor without a body, nor in HTTP/1.0."""
        raw = self.connect().send(head("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue") + b"hello")
        self.assertEqual(raw.answer().status, 200)
        self.assertEqual(raw.send(head("POST / HTTP/1.1", "Expect: 100-continue")).answer().status, 200)
        raw = self.connect().send(head("POST / HTTP/1.0", "Content-Length: 5", "Expect: 100-continue"))
        self.assertTrue(raw.is_quiet())
        self.assertEqual(raw.send(b"hello").answer().status, 200)

    def test_9110_10_1_1_a_final_status_instead(self) -> None:
        """A request that is refused anyway gets its final status at once."""
        raw = self.connect().send(head("POST / HTTP/1.1", "Content-Length: 104857601", "Expect: 100-continue"))
        self.assertEqual(raw.answer().status, 413)

    def test_9110_10_1_1_other_expectations(self) -> None:
        """An expectation that is not understood gets 417."""
        self.refused(head("POST / HTTP/1.1", "Expect: 200-ok"), 417)

    def test_9110_15_3_5_no_content(self) -> None:
        """204 has neither a body nor its length."""
        raw = self.connect()
        answer = raw.send(head("GET /status/204 HTTP/1.1")).answer()
        self.assertEqual((answer.status, answer.get("content-length")), (204, None))
        self.assertIsNone(answer.get("transfer-encoding"))
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_9110_15_4_5_not_modified(self) -> None:
        """304 has no body."""
        raw = self.connect()
        answer = raw.send(head("GET /status/304 HTTP/1.1")).answer()
        self.assertEqual((answer.status, answer.get("etag")), (304, '"1"'))
        self.assertIsNone(answer.get("transfer-encoding"))
        self.assertEqual(self.accepted(head("GET /b HTTP/1.1"), raw)["path"], "/b")

    def test_9110_6_6_1_date(self) -> None:
        """Every answer has a Date, those of refusals, too."""
        pattern = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT"
        self.assertRegex(self.connect().send(head("GET / HTTP/1.1")).answer().get("date") or "", pattern)
        self.assertRegex(self.refused(b"bad\r\n\r\n").get("date") or "", pattern)

    def test_9110_7_8_upgrade_in_http_1_0_means_nothing(self) -> None:
        """In HTTP/1.0, Upgrade must be ignored; and other protocols may be."""
        self.accepted(head("GET / HTTP/1.0", "Upgrade: websocket", "Connection: upgrade"))
        self.accepted(head("GET / HTTP/1.1", "Upgrade: h2c, irc/6.9", "Connection: upgrade"))

    def test_tls_on_a_plain_port(self) -> None:
        """Who speaks TLS here hears of it at once, not when the time for a head is over."""
        raw = self.connect().send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.assertEqual(raw.answer().status, 400)
