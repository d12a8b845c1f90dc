"""What a message may hold, and that it is copied."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
from collections import OrderedDict
from typing import Any

from django.http import QueryDict
from django.utils.safestring import mark_safe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers.content import copy_content
from tests import examples

ATOMS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
CONTENTS = st.dictionaries(
    st.text(), st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
)


class Color(enum.IntEnum):
    """Numbers with names."""

    RED = 3


class Ratio(float):
    """A float of an application's own."""


class Blob(bytes):
    """Bytes of an application's own."""


def nested(depth: int, inner: Any) -> Any:
    """Return `inner` inside of so many lists."""
    for _ in range(depth):
        inner = [inner]
    return inner


class CopyTests(SynchronousTestCase):
    """What comes out of a copy."""

    @settings(deadline=None, derandomize=True, max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow])
    @given(CONTENTS)
    def test_equal(self, content: dict[str, Any]) -> None:
        """A copy is equal to what was copied, with the same types."""
        copy = copy_content(content)
        self.assertEqual(copy, content)
        self.assertEqual(repr(copy), repr(content))

    def test_shares_nothing(self) -> None:
        """Altering the original, however deep, alters nothing in the copy, and the other way."""
        content: dict[str, Any] = {"list": [1, {"inner": [2]}], "dict": {"deep": {"x": [3]}}}
        copy = copy_content(content)
        content["list"][1]["inner"].append(4)
        content["dict"]["deep"]["x"].clear()
        content["new"] = 1
        self.assertEqual(copy, {"list": [1, {"inner": [2]}], "dict": {"deep": {"x": [3]}}})
        copy["list"][1]["inner"].append(5)
        self.assertEqual(content["list"][1]["inner"], [2, 4])

    def test_same_value_twice(self) -> None:
        """A list that stands in two places is copied twice."""
        shared = [1]
        copy = copy_content({"a": shared, "b": shared})
        self.assertIsNot(copy["a"], copy["b"])

    def test_order_of_keys(self) -> None:
        """Keys keep their order."""
        self.assertEqual(list(copy_content({"b": 1, "a": 2, "c": 3})), ["b", "a", "c"])

    def test_tuples_become_lists(self) -> None:
        """Tuples become lists, at any depth."""
        self.assertEqual(copy_content({"a": (1, (2, [(3,)]))}), {"a": [1, [2, [[3]]]]})

    def test_subclasses_become_plain(self) -> None:
        """What extends a type that can be carried arrives as that type: SafeString, enumerations, ordered dicts."""
        safe = mark_safe("<b>")
        copy = copy_content(
            {"text": safe, "int": Color.RED, "float": Ratio(0.5), "bytes": Blob(b"x"), "dict": OrderedDict(a=safe)}
        )
        self.assertEqual(copy, {"text": "<b>", "int": 3, "float": 0.5, "bytes": b"x", "dict": {"a": "<b>"}})
        types = [type(value) for value in (*copy.values(), copy["dict"]["a"])]
        self.assertEqual(types, [str, int, float, bytes, dict, str])

    def test_surrogates(self) -> None:
        """Halves of characters, wherever they stand: joined, or replaced."""
        half, joined = "a\ud83d", "\ud83d\ude00"
        copy = copy_content({half: half, "list": [joined, {"key": mark_safe(half)}], "plain": "é"})
        self.assertEqual(copy, {"a\ufffd": "a\ufffd", "list": ["\U0001f600", {"key": "a\ufffd"}], "plain": "é"})

    def test_subclasses_as_keys(self) -> None:
        """A key that extends text becomes plain text."""
        copy = copy_content({mark_safe("key"): {mark_safe("inner"): 1}})
        self.assertEqual([type(key) for key in (*copy, *copy["key"])], [str, str])

    def test_subclass_of_dict(self) -> None:
        """A dict of another type is a message, too; the copy is a plain dict."""
        copy = copy_content(QueryDict("a=1&b=2"))
        self.assertEqual(copy, {"a": "1", "b": "2"})
        self.assertIs(type(copy), dict)

    def test_booleans_stay(self) -> None:
        """True and False are not made numbers."""
        copy = copy_content({"a": True, "b": [False]})
        self.assertIs(copy["a"], True)
        self.assertIs(copy["b"][0], False)

    def test_extreme_floats(self) -> None:
        """Infinity and not-a-number are floats like any other."""
        copy = copy_content({"a": math.inf, "b": math.nan, "c": -0.0})
        self.assertEqual((copy["a"], math.isnan(copy["b"]), math.copysign(1, copy["c"])), (math.inf, True, -1.0))


class RefusalTests(SynchronousTestCase):
    """What cannot be carried, and what the error says."""

    def refusal(self, content: Any) -> str:
        """Assert that `content` is refused; return the error's text."""
        with self.assertRaises(TypeError) as caught:
            copy_content(content)
        return str(caught.exception)

    def test_dicts_only(self) -> None:
        """A message is a dict; the error tells what was given instead, in short."""
        for content in ("text", [("a", 1)], None, 7, {1, 2}, b"x"):
            self.assertIn(type(content).__name__, self.refusal(content))
        self.assertLess(len(self.refusal("x" * 10_000)), 200)

    def test_keys_are_text(self) -> None:
        """Keys are text, at any depth; the error tells where the key is."""
        for key in (1, b"key", None, (1, 2)):
            self.assertIn(repr(key), self.refusal({key: 1}))
        text = self.refusal({"a": [0, {"b": {7: 1}}]})
        self.assertIn("7", text)
        self.assertIn("['a'][1]['b']", text)

    def test_other_values(self) -> None:
        """Objects of other types are refused; the error names the way to them, their type, and the cure."""
        now = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        for value in (
            object(),
            {1, 2},
            now,
            decimal.Decimal(1),
            1j,
            bytearray(b"x"),
            memoryview(b"x"),
            range(3),
            iter([]),
        ):
            text = self.refusal({"outer": [1, {"inner": value}]})
            self.assertIn("message['outer'][1]['inner']", text)
            self.assertIn(type(value).__name__, text)
            self.assertIn("send it as", text)

    def test_range_of_integers(self) -> None:
        """Integers have 64 bits, with sign."""
        for number in (2**63 - 1, -(2**63), 0):
            self.assertEqual(copy_content({"n": number, "l": [number]}), {"n": number, "l": [number]})
        for number in (2**63, -(2**63) - 1):
            self.assertIn("message['a'][0]", self.refusal({"a": [number]}))
            self.assertIn("64 bits", self.refusal({"n": number}))

    def test_huge_integer(self) -> None:
        """An integer which Python does not even print is refused like any other that is too large."""
        self.assertIn("message['n']", self.refusal({"n": 10**5000}))

    def test_range_holds_for_subclasses(self) -> None:
        """The range of integers holds for their subclasses."""

        class Number(int):
            pass

        self.assertIn("64 bits", self.refusal({"n": Number(2**63)}))

    def test_depth(self) -> None:
        """64 levels of lists and dicts are allowed, one more is not."""
        self.assertEqual(copy_content({"a": nested(64, "x")}), {"a": nested(64, "x")})
        self.assertIn("64 deep", self.refusal({"a": nested(65, "x")}))
        dicts: Any = "x"
        for _ in range(64):
            dicts = {"a": dicts}
        self.assertEqual(copy_content({"a": dicts}), {"a": dicts})
        self.assertIn("64 deep", self.refusal({"a": {"a": dicts}}))

    def test_depth_counts_levels_not_values(self) -> None:
        """In the deepest list there may be what may be in any other."""
        self.assertEqual(copy_content({"a": nested(64, mark_safe("x"))}), {"a": nested(64, "x")})
        self.assertIn("object", self.refusal({"a": nested(64, object())}))

    def test_circles(self) -> None:
        """What contains itself is refused, and does not end in a RecursionError."""
        circle: list[Any] = []
        circle.append(circle)
        self.assertIn("contains itself", self.refusal({"a": circle}))
        content: dict[str, Any] = {}
        content["self"] = content
        self.assertIn("contains itself", self.refusal(content))
