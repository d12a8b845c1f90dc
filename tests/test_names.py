"""Which names channels and groups may have."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers.names import check_channel_name, check_group_name, local_prefix, new_host_name
from channelserver.layers.redis.host import token_of
from channelserver.server.replies import Replies


class Name(str):
    """A name of an application's own type."""


class ChannelNameTests(SynchronousTestCase):
    """Names of channels."""

    def assertRefused(self, name: Any, receive: bool = False) -> str:
        """Assert that a name is refused; return why."""
        with self.assertRaises(TypeError, msg=repr(name)) as caught:
            check_channel_name(name, receive)
        return str(caught.exception)

    def test_allowed(self) -> None:
        """Letters, digits, '-', '_' and '.', and one part that starts with '!' or '?'."""
        for name in ("a", "websocket.receive", "A-z_0.9", "-", ".", "a!b", "a!", "a?b", "http.response.x!1-2_3.4"):
            self.assertIs(check_channel_name(name), name)

    def test_only_ascii_and_few_characters(self) -> None:
        """All else is refused: blanks, slashes, letters and digits beyond ASCII, line ends at the end."""
        for name in ("", "a b", "a/b", "a:b", "a,b", "é", "aé", "a!é", "a\u0661", "a\n", "a!b\n", "\na", "a\x00", " a"):
            self.assertIn(repr(name), self.assertRefused(name))

    def test_one_special_part(self) -> None:
        """There is one '!' or '?' at most, and something before it."""
        for name in ("a!b!c", "a?b?c", "a!b?c", "a?b!c", "a!!", "!", "!a", "?a"):
            self.assertRefused(name)

    def test_length(self) -> None:
        """A name has fewer than 100 characters, whatever its parts."""
        for name in ("x" * 99, "x" * 49 + "!" + "y" * 49):
            check_channel_name(name)
        for name in ("x" * 100, "x" * 50 + "!" + "y" * 49, "x" * 10_000):
            self.assertIn("fewer than 100", self.assertRefused(name))

    def test_text_only(self) -> None:
        """What is no text is refused, and the error tells its type."""
        for name in (b"bytes", None, 7, ["a"], object()):
            self.assertIn(f"channel name must be str, not {type(name).__name__}", self.assertRefused(name))

    def test_own_type_of_text(self) -> None:
        """A subclass of text is a name."""
        self.assertEqual(check_channel_name(Name("a")), "a")

    def test_reply_channels(self) -> None:
        """The names of connections have at most 37 characters, are valid, differ, and tell their host over Redis."""
        bridge: Any = None
        one, other = Replies(bridge), Replies(bridge)
        names = set()
        for replies in (one, other):
            for prefix in (replies.http_prefix, replies.websocket_prefix):
                connection: Any = object()
                found = {replies.add(prefix, connection) for _ in range(1000)}
                names |= found
                for name in found:
                    self.assertLessEqual(len(check_channel_name(name)), 37)
                    self.assertEqual(f"{token_of(name)}!", prefix.rpartition(".")[2])
        self.assertEqual(len(names), 4000)
        self.assertEqual({len(new_host_name()) for _ in range(100)}, {9})

    def test_pattern_is_no_name(self) -> None:
        """A name that ends in '?' is a pattern for new_channel(), which the error says."""
        self.assertIn("new_channel", self.assertRefused("a?"))
        self.assertIn("new_channel", self.assertRefused("a?", receive=True))

    def test_receiving(self) -> None:
        """Process-specific channels are received on by the part up to '!', all others by their name."""
        for name in ("a", "a?b", "a!"):
            self.assertIs(check_channel_name(name, receive=True), name)
        self.assertIn("'a!'", self.assertRefused("a!b", receive=True))

    def test_error_tells_the_cure(self) -> None:
        """The error says what is allowed."""
        self.assertIn("ASCII letters", self.assertRefused("a b"))


class GroupNameTests(SynchronousTestCase):
    """Names of groups."""

    def test_allowed(self) -> None:
        """Letters, digits, '-', '_' and '.', up to 99 of them."""
        for name in ("a", "chat-1_x.Y", "x" * 99):
            self.assertIs(check_group_name(name), name)

    def test_refused(self) -> None:
        """All else is refused, also what a channel's name may have; the error names it."""
        for name in ("", "a!b", "a!", "a?b", "a b", "é", "a\n", "x" * 100):
            with self.assertRaises(TypeError, msg=name) as caught:
                check_group_name(name)
            self.assertIn(repr(name), str(caught.exception))

    def test_text_only(self) -> None:
        """What is no text is refused, and the error tells its type."""
        for name in (b"bytes", None, 7):
            with self.assertRaises(TypeError) as caught:
                check_group_name(name)
            self.assertIn(f"group name must be str, not {type(name).__name__}", str(caught.exception))


class LocalPrefixTests(SynchronousTestCase):
    """The part of a name that tells the process."""

    def test_part_up_to_the_mark(self) -> None:
        """The part up to and with '!' is returned; a name without it, as it is."""
        for name, prefix in (("a!b", "a!"), ("a!", "a!"), ("a", "a"), ("a?b", "a?b")):
            self.assertEqual(local_prefix(name), prefix)
