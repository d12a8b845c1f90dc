"""Contents of messages as JSON text for the database.

Runs in any thread; owns nothing.

JSON as in Channels 1, so that people and other programs can read and write it. Bytes become
``{"__bytes__": "<base64>"}``.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from channelserver.layers.content import Content

_BYTES, _DICT = "__bytes__", "__dict__"


def to_text(content: Content) -> str:
    """Return a checked content (:func:`channelserver.layers.content.copy_content`) as ASCII text."""
    return json.dumps(_encoded(content))


def from_text(text: str) -> Any:
    """Return the content that :func:`to_text` has encoded.

    :raises ValueError: `text` is not JSON, or its bytes are not base64.
    """
    return json.loads(text, object_hook=_decoded)


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        encoded = {key: _encoded(item) for key, item in value.items()}
        # Escape a dict that looks like one of the marks.
        return {_DICT: list(encoded.items())} if len(encoded) == 1 and encoded.keys() <= {_BYTES, _DICT} else encoded
    return value


def _decoded(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        if isinstance(value.get(_BYTES), str):
            return base64.b64decode(value[_BYTES], validate=True)
        if isinstance(value.get(_DICT), list):
            return dict(value[_DICT])
    return value
