"""An option of the server: its names, its kind, and what counts as a value.

Runs before the reactor; owns nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: What a variable of the environment may say of a switch.
_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

#: What a number may end in, and how many of the option's unit that is. As for nginx and systemd, K, M and G are 1024.
_UNITS: dict[str, dict[str, float]] = {
    "bytes": {
        "": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30,
        "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
    },
    "seconds": {"": 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400},
}  # fmt: skip

_is_number = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]*)\s*", re.IGNORECASE).fullmatch


def in_units(text: str, unit: str) -> float:
    """Return a number that may carry a unit of its own, as ``10MB`` or ``5s``.

    :param unit: of the result: ``bytes``, ``seconds``, or another one, which cannot be written.
    :raises ValueError: it is none.
    """
    found = _is_number(text)
    factor = _UNITS.get(unit, {"": 1}).get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError
    return round(float(found[1]) * factor, 6)


class OptionError(ValueError):
    """An option has a wrong value; the text names the option, the value and the cure."""


@dataclass(frozen=True, repr=False, eq=False)  # each method takes time at the start
class Option:
    """One row of the table.

    ``name`` is the key in ``CHANNELSERVER``. ``kind``: ``str``, ``int``, ``float``, ``flag`` (off unless given) or
    ``no-flag`` (on unless ``--no-…`` is given). ``unit`` belongs to numbers. ``low`` and ``high`` are the limits of
    numbers. ``command_line_only`` options are not settings, because they say where the settings are; an ``action`` is
    no variable of the environment either. ``may_be_empty``: an empty text is a value, not the default.
    """

    name: str
    kind: str
    default: Any
    help: str
    unit: str = ""
    short: str | None = None
    repeatable: bool = False
    #: Whether a setting may be a text instead of a list of one.
    lone: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    command_line_only: bool = False
    action: bool = False
    may_be_empty: bool = False
    #: The heading under which ``--help`` and the documentation list it.
    group: str = ""
    #: Called with each value; raises ValueError, whose text says what the value should be.
    check: Callable[[str], object] | None = None

    @property
    def flag(self) -> str:
        return ("--no-" if self.kind == "no-flag" else "--") + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of the environment that set it, the most important one first."""
        own = () if self.action else (f"CHANNELSERVER_{self.name.upper()}",)
        return (*own, "PORT") if self.name == "port" else own

    def read(self, text: str, where: str) -> Any:
        """Return the value of a variable of the environment.

        :raises OptionError: it is wrong.
        """
        if self.repeatable:
            return self.convert([part.strip() for part in text.split(",") if part.strip()], where)
        if self.kind in ("flag", "no-flag"):
            if text.lower() not in _BOOLEANS:
                raise OptionError(f"{where} must be true or false, not {text!r}")
            return _BOOLEANS[text.lower()]
        return self.convert(text, where)

    def convert(self, value: Any, where: str) -> Any:
        """Return `value` as this option's type.

        :param value: text from the command line, or any object from the settings.
        :param where: the flag or the setting, for the error.
        :raises OptionError: `value` has another type, or is out of range.
        """
        if self.repeatable:
            if self.lone and isinstance(value, str):
                value = [value]
            if isinstance(value, str) or not isinstance(value, (list, tuple)):
                raise OptionError(f"{where} must be a list, not {value!r}")
            return tuple(self._convert_one(item, where) for item in value)
        return self._convert_one(value, where)

    def _convert_one(self, value: Any, where: str) -> Any:
        if value is None and self.default is None:
            return None
        if self.kind in ("flag", "no-flag"):
            if not isinstance(value, bool):
                raise OptionError(f"{where} must be True or False, not {value!r}")
            return value
        if self.kind == "str":
            if not isinstance(value, (str, os.PathLike)):
                raise OptionError(f"{where} must be text, not {value!r}")
            value = os.fspath(value)
            if self.check is not None:
                try:
                    self.check(value)
                except ValueError as error:
                    raise OptionError(f"{where} must be {error}, not {value!r}") from None
            if self.choices and value not in self.choices:
                raise OptionError(f"{where} must be one of {', '.join(self.choices)}, not {value!r}")
            return value
        return self._convert_number(value, where)

    def _convert_number(self, value: Any, where: str) -> Any:
        kind: type[int] | type[float] = int if self.kind == "int" else float
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError
            exact = in_units(value, self.unit) if isinstance(value, str) else value
            number = kind(exact)
            if not math.isfinite(number) or number != exact:  # 0.5 where a whole number is needed
                raise ValueError
        except (ValueError, OverflowError):
            raise OptionError(f"{where} must be {self._noun()}, not {value!r}") from None
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            limits = f"from {self.low:g}" + (f" to {self.high:g}" if self.high is not None else " up")
            raise OptionError(f"{where} must be {self._noun()} {limits}, not {value!r}")
        return number

    def _noun(self) -> str:
        example = {"bytes": " (or 10MB, 64KiB)", "seconds": " (or 500ms, 5s, 2m)"}.get(self.unit, "")
        return (
            ("a whole number" if self.kind == "int" else "a number")
            + (f" of {self.unit}" if self.unit else "")
            + example
        )
