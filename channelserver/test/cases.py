"""Test cases with a channel layer of their own.

For the one thread of the test.
"""

from __future__ import annotations

import json as json_module
import sys
from contextlib import ExitStack
from typing import Any, ClassVar

from django.test import TestCase, TransactionTestCase

from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.message import Message
from channelserver.test.client import next_message
from channelserver.test.layer import Sent, captive_layer, captive_layers, deliver_committed


class ChannelTestCaseMixin:
    """Gives each test new, empty channel layers in memory, whatever the settings name, with the settings' routing.

    What the code under test sends with ``on_commit`` goes out when its own transactions have ended, though the
    transaction around the test never commits.
    """

    #: The aliases in ``CHANNEL_LAYERS`` that are replaced.
    test_channel_aliases: ClassVar[list[str]] = [DEFAULT_CHANNEL_LAYER]

    def run(self, result: Any = None) -> Any:
        """Run the test, ``setUp`` included, with the layers replaced."""
        with ExitStack() as stack:
            try:
                stack.enter_context(captive_layers(self.test_channel_aliases))
            except Exception:
                if result is None:
                    raise
                result.startTest(self)
                result.addError(self, sys.exc_info())
                result.stopTest(self)
                return result
            return super().run(result)  # type: ignore[misc]

    def debug(self) -> None:
        """The same, for runners that want exceptions raised."""
        with captive_layers(self.test_channel_aliases):
            super().debug()  # type: ignore[misc]

    def get_next_message(
        self, channel: str, alias: str = DEFAULT_CHANNEL_LAYER, require: bool = False
    ) -> Message | None:
        """Take the next message from a channel.

        :param require: fail if there is none, instead of returning None.
        """
        message = next_message(alias, channel)
        if message is None and require:
            raise AssertionError(f"Expected a message on channel {channel}, got none")
        return message

    # -- what was sent -------------------------------------------------------------------------------------------------

    def sent_to(self, channel: str, alias: str = DEFAULT_CHANNEL_LAYER) -> list[dict[str, Any]]:
        """Return all that was sent to a channel by name, oldest first, received by now or not."""
        return [sent.content for sent in _sent(alias) if not sent.is_group and sent.name == channel]

    def sent_to_group(self, group: str, alias: str = DEFAULT_CHANNEL_LAYER) -> list[dict[str, Any]]:
        """Return all that was sent to a group, oldest first, whether it has members or not."""
        return [sent.content for sent in _sent(alias) if sent.is_group and sent.name == group]

    def forget_sent(self, alias: str = DEFAULT_CHANNEL_LAYER) -> None:
        """Forget what was sent until now, for the methods around this one. Nothing is taken from any channel."""
        deliver_committed()
        captive_layer(alias).sent.clear()

    def assertSent(
        self,
        channel: str,
        content: dict[str, Any] | None = None,
        *,
        json: Any = None,
        alias: str = DEFAULT_CHANNEL_LAYER,
    ) -> dict[str, Any]:
        """Assert that something was sent to a channel by name; return the first that fits.

        :param content: keys and values which it has, perhaps among others.
        :param json: what its text stands for.
        """
        return self._assert_sent(False, channel, content, json, alias)

    def assertSentToGroup(
        self, group: str, content: dict[str, Any] | None = None, *, json: Any = None, alias: str = DEFAULT_CHANNEL_LAYER
    ) -> dict[str, Any]:
        """Assert that something was sent to a group; see :meth:`assertSent`."""
        return self._assert_sent(True, group, content, json, alias)

    def assertNotSent(
        self,
        channel: str,
        content: dict[str, Any] | None = None,
        *,
        json: Any = None,
        alias: str = DEFAULT_CHANNEL_LAYER,
    ) -> None:
        """Assert that nothing that fits was sent to a channel; see :meth:`assertSent`."""
        self._assert_not_sent(False, channel, content, json, alias)

    def assertNotSentToGroup(
        self, group: str, content: dict[str, Any] | None = None, *, json: Any = None, alias: str = DEFAULT_CHANNEL_LAYER
    ) -> None:
        """Assert that nothing that fits was sent to a group; see :meth:`assertSent`."""
        self._assert_not_sent(True, group, content, json, alias)

    def assertNothingSent(self, alias: str = DEFAULT_CHANNEL_LAYER) -> None:
        """Assert that nothing at all was sent, to whatever channel or group, since the test's begin or the last
        :meth:`forget_sent`.
        """
        sent = _sent(alias)
        if sent:
            raise AssertionError(f"nothing should have been sent, but this was:\n{_listed(sent)}")

    def _assert_sent(self, is_group: bool, name: str, content: Any, json: Any, alias: str) -> dict[str, Any]:
        all_sent = _sent(alias)
        for sent in all_sent:
            if sent.is_group == is_group and sent.name == name and _fits(sent.content, content, json):
                return sent.content
        raise AssertionError(
            f"{_wanted(is_group, name, content, json)} was not sent; this was:\n{_listed(all_sent) or '  nothing'}"
        )

    def _assert_not_sent(self, is_group: bool, name: str, content: Any, json: Any, alias: str) -> None:
        fitting = [
            sent
            for sent in _sent(alias)
            if sent.is_group == is_group and sent.name == name and _fits(sent.content, content, json)
        ]
        if fitting:
            raise AssertionError(
                f"{_wanted(is_group, name, content, json)} should not have been sent:\n{_listed(fitting)}"
            )


class ChannelTestCase(ChannelTestCaseMixin, TestCase):
    """Django's ``TestCase`` with channel layers of its own; see :class:`ChannelTestCaseMixin`."""


class TransactionChannelTestCase(ChannelTestCaseMixin, TransactionTestCase):
    """Django's ``TransactionTestCase`` with channel layers of its own; see :class:`ChannelTestCaseMixin`."""


def _sent(alias: str) -> list[Sent]:
    deliver_committed()
    return captive_layer(alias).sent


def _fits(content: dict[str, Any], wanted: dict[str, Any] | None, json: Any) -> bool:
    if wanted is not None and not all(key in content and content[key] == value for key, value in wanted.items()):
        return False
    if json is None:
        return True
    try:
        return bool(json_module.loads(content["text"]) == json)
    except (KeyError, TypeError, ValueError):
        return False


def _wanted(is_group: bool, name: str, content: Any, json: Any) -> str:
    what = f"a message with {content!r}" if content is not None else "a message"
    if json is not None:
        what += f" with the JSON {json!r}"
    return f"{what} to {'group' if is_group else 'channel'} {name!r}"


def _listed(sent: list[Sent]) -> str:
    return "\n".join(f"  {one}" for one in sent)
