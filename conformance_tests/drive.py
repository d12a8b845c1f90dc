"""Runs kosoku, with one of its faults mended. A program: ``python -m conformance_tests.drive`` and kosoku's arguments.

The cases of sections 12 and 13 work on bytes. kosoku 0.1 gives them bytes for a message that came compressed, but text
for one that did not, though a server may leave any message uncompressed (RFC 7692 section 6), and ours leaves the small
ones. So text is turned back into the bytes it was made of.

The environment variable ``CONFORMANCE_MESSAGES`` says how many messages each of these cases sends; without it they send
the 1000 that the Autobahn test suite has.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from kosoku import _caseindex, _cli


def give_bytes(case: Any) -> None:
    """Have a case get bytes, whatever came."""
    on_message = case.onMessage

    def given(self: Any, message: Any, binary: bool) -> None:
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        on_message(self, message, binary)

    case.onMessage = given


def main() -> None:
    """Run kosoku."""
    _caseindex.initialize_shims()
    cases = importlib.import_module("case12_x_x")
    for case in (*cases.Case12_X_X, *cases.Case13_X_X):
        give_bytes(case)
        case.COUNT = int(os.environ.get("CONFORMANCE_MESSAGES", case.COUNT))
    _cli.main()


if __name__ == "__main__":
    main()
