"""Who may open a WebSocket."""

from __future__ import annotations

from django.http.request import split_domain_port, validate_host
from hypothesis import given, settings, strategies
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.websocket.origin import OriginPolicy, split_port
from tests import examples


class SplitPortTests(SynchronousTestCase):
    """The name in a Host field."""

    def test_names(self) -> None:
        """The port and a final dot are taken off."""
        for host, name in (
            ("a.com", "a.com"), ("a.com:8000", "a.com"), ("A.com", "a.com"), ("a.com.", "a.com"),
            ("a.com.:80", "a.com"), ("127.0.0.1:80", "127.0.0.1"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"),
        ):  # fmt: skip
            self.assertEqual(split_port(host), name)

    def test_malformed(self) -> None:
        """What is no name with a port is none."""
        for host in (
            "",
            ":80",
            ".",
            "a.com:x",
            "a.com:80:80",
            "a.com:-1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[::1]:x1",
            "[::1].1",
            "::1",
            "a.com:",
            "a;b.com",
            "evil.com%2f.a.com",
            "a_b.com",
            "a b.com",
            "a.com\n",
            "user@a.com",
            "[::1%25lo]",
        ):
            self.assertIsNone(split_port(host), host)

    @settings(deadline=None, derandomize=True, max_examples=examples(500))
    @given(
        strategies.text("ab.-_:;[]%/\\@ \n0fK\u0130\u212a", max_size=12).map("{}.a.com".format)
        | strategies.text("aA.:[]0-f", max_size=9),
        strategies.lists(strategies.sampled_from(["*", ".a.com", "a.com", "A.com", "[::1]", "a", ""]), max_size=3),
    )
    def test_django_agrees(self, host: str, allowed: list[str]) -> None:
        """What is a host, and which of them are the site's, is as Django has it."""
        name = split_domain_port(host)[0]
        self.assertEqual(split_port(host), name or None)
        self.assertEqual(OriginPolicy(allowed).host_allowed(host), bool(name) and validate_host(name, allowed))


class HostTests(SynchronousTestCase):
    """The Host field, as Django's ALLOWED_HOSTS has it."""

    def assertAllowed(self, allowed: list[str], *hosts: str) -> None:
        for host in hosts:
            self.assertTrue(OriginPolicy(allowed).host_allowed(host), (allowed, host))

    def assertRefused(self, allowed: list[str], *hosts: str) -> None:
        for host in hosts:
            self.assertFalse(OriginPolicy(allowed).host_allowed(host), (allowed, host))

    def test_names(self) -> None:
        """A name is allowed in any case, with any port and with a final dot; nothing else is."""
        self.assertAllowed(["Example.com"], "example.com", "EXAMPLE.COM:8000", "example.com.")
        self.assertRefused(
            ["example.com"], "a.example.com", "example.com.evil.org", "notexample.com", "", ":80", "example.co"
        )

    def test_domains(self) -> None:
        """A leading dot stands for a domain and all below it."""
        self.assertAllowed([".example.com"], "example.com", "a.example.com", "a.b.example.com:80")
        self.assertRefused([".example.com"], "notexample.com", "example.com.evil.org", "com")

    def test_anything(self) -> None:
        """A star stands for any name, but not for what is no name."""
        self.assertAllowed(["*"], "anything", "[::1]:80")
        self.assertRefused(["*"], "", "a b:c")

    def test_addresses(self) -> None:
        """Addresses are names like others."""
        self.assertAllowed(["127.0.0.1", "[::1]"], "127.0.0.1:8000", "[::1]:8000")
        self.assertRefused(["127.0.0.1"], "127.0.0.2", "[::1]")

    def test_nothing(self) -> None:
        """Without allowed hosts none is allowed."""
        self.assertRefused([], "localhost", "a.com")


class OriginTests(SynchronousTestCase):
    """A browser's Origin field."""

    def allowed(
        self,
        origin: str | None,
        host: str = "site.com",
        hosts: tuple[str, ...] = ("site.com",),
        origins: tuple[str, ...] = (),
    ) -> bool:
        return OriginPolicy(hosts, origins).origin_allowed(origin, host)

    def test_no_browser(self) -> None:
        """Without the field it is no browser, and may."""
        self.assertTrue(self.allowed(None))

    def test_same_host(self) -> None:
        """Pages of the same host may, whatever scheme and port."""
        for origin in ("http://site.com", "https://site.com:8443", "HTTP://SITE.com", "http://site.com."):
            self.assertTrue(self.allowed(origin, "site.com:8000"), origin)
        self.assertTrue(self.allowed("http://[::1]:8000", "[::1]:9000", ("[::1]",)))

    def test_other_hosts(self) -> None:
        """Pages of others may not, however like the names are."""
        for origin in (
            "http://evil.com", "http://site.com.evil.com", "http://evil.com/site.com", "http://evilsite.com", "http://site.com@evil.com",
            "http://a.site.com", "http://evil.com#site.com", "http://evil.com?site.com", "http://site.com/", "http://site.com\\evil.com",
        ):  # fmt: skip
            self.assertFalse(self.allowed(origin), origin)

    def test_no_origin_at_all(self) -> None:
        """Pages from files and sandboxes, and nonsense, may not."""
        for origin in (
            "null",
            "",
            "file://",
            "://site.com",
            "site.com",
            "http:site.com",
            "http://",
            "http://site.com:x",
        ):
            self.assertFalse(self.allowed(origin), origin)

    def test_allowed_hosts(self) -> None:
        """Pages of the site's other names may."""
        hosts = ("site.com", ".other.org")
        for origin in ("https://other.org", "https://www.other.org:444"):
            self.assertTrue(self.allowed(origin, hosts=hosts), origin)

    def test_any_host_is_not_any_origin(self) -> None:
        """A star among the hosts says that the site has any name, not that any page may."""
        self.assertFalse(self.allowed("http://evil.com", hosts=("*",)))
        self.assertTrue(self.allowed("http://site.com", hosts=("*",)))
        self.assertTrue(self.allowed("http://other.org", hosts=("*", "other.org")))

    def test_allowed_origins(self) -> None:
        """Origins allowed in writing may, as names or with a scheme, in any case; a star stands for all."""
        for origins in (
            ("friend.org",),
            ("https://friend.org",),
            ("Friend.org",),
            (".friend.org",),
            ("https://friend.org:8443",),
        ):
            self.assertTrue(self.allowed("https://friend.org", origins=origins), origins)
            self.assertFalse(self.allowed("https://evil.com", origins=origins), origins)
        self.assertTrue(self.allowed("https://a.friend.org", origins=(".friend.org",)))
        for origin in ("http://evil.com", "null"):
            self.assertTrue(self.allowed(origin, origins=("*",)))

    def test_allowed_origin_with_port(self) -> None:
        """A port in an allowed origin does no harm, with or without a scheme."""
        self.assertTrue(self.allowed("https://friend.org:8443", origins=("friend.org:8443",)))

    def test_underscores(self) -> None:
        """Some internal names have an underscore. They are no hosts to Django, but pages come from them."""
        self.assertTrue(self.allowed("http://my_host:80", origins=("my_host",)))
        self.assertFalse(self.allowed("http://my_host", "my_host", origins=("other",)))

    def test_allowed_origins_are_no_hosts(self) -> None:
        """An allowed origin is not a name of the site."""
        self.assertFalse(OriginPolicy(["site.com"], ["friend.org"]).host_allowed("friend.org"))
