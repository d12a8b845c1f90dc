"""Check and copy the contents of messages.

Runs in any thread; owns nothing.

A message is a dict with text keys. Its values are bytes, text, integers of 64 bits, floats, booleans, ``None``, and
lists and dicts of these (ASGI draft of Channels 1, "Message formats"). What is checked here can be carried by every
layer, so a project that works in memory also works over Redis.
"""

from typing import Any

Content = dict[str, Any]

_ATOMS = frozenset({bytes, float, bool, type(None)})
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_DEEPEST = 64


def copy_content(content: object) -> Content:
    """Return a deep copy of a message's content, after checking it.

    :param content: a dict as the module's docstring describes; tuples become lists, subclasses of ``str`` (for example
        Django's ``SafeString``) become plain text, in which U+FFFD stands for lone surrogates.
    :returns: a new dict, which shares nothing alterable with `content`.
    :raises TypeError: `content` is no dict, or holds something a message cannot carry; the text says where and what to
        do.
    """
    if not isinstance(content, dict):
        raise TypeError(
            f"You can only send dicts as content on channels, not {type(content).__name__}: {_shortened(content)}"
        )
    return _copy_dict(content, "", 0)


def size_of_reply(content: Content) -> int:
    """Return the approximate size of a reply, in bytes."""
    data = content.get("text") or content.get("content") or content.get("bytes")
    return len(data) if isinstance(data, (str, bytes)) else 0


def _copy_dict(content: dict[Any, Any], where: str, depth: int) -> Content:
    copy: Content = {}
    for key, value in content.items():
        kind = type(key)
        if kind is not str:
            if not isinstance(key, str):
                raise TypeError(f"key {key!r}{_inside(where)} must be str, not {kind.__name__}")
            key = str.__str__(key)
        if not key.isascii():
            key = whole_text(key)
        kind = type(value)
        if kind is str:
            copy[key] = value if value.isascii() else whole_text(value)
        else:
            copy[key] = value if kind in _ATOMS else _copy_value(value, f"{where}[{key!r}]", depth)
    return copy


def whole_text(text: str) -> str:
    """Return text that can be sent as UTF-8: two surrogates of one character become that, lone ones U+FFFD.

    JSON can name them (RFC 8259 section 8.2), so any client's message may contain some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _copy_value(value: Any, where: str, depth: int) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        raise TypeError(f"message{where} is an integer that does not fit into 64 bits; send it as str")
    if isinstance(value, (list, tuple, dict)) and depth >= _DEEPEST:
        raise TypeError(f"message{where} is nested more than {_DEEPEST} deep, or contains itself")
    if isinstance(value, (list, tuple)):
        return [_copy_value(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return _copy_dict(value, where, depth + 1)
    # Subclasses: sent as the plain type they extend, which is what the receiver would get from a layer that serializes.
    if isinstance(value, str):
        return whole_text(str.__str__(value))
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, int):
        return _copy_value(int(value), where, depth)
    if isinstance(value, float):
        return float(value)
    raise TypeError(
        f"message{where} is a {kind.__name__}, which a message cannot carry; "
        "send it as str, bytes, a number, a list or a dict"
    )


def _inside(where: str) -> str:
    return f" of message{where}" if where else " of a message"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
