"""The options on a command line: of ``channelserver serve`` and its like, and of ``twistd channelserver``.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.python import usage

from channelserver import __version__
from channelserver.server.common.options import BY_NAME, OPTIONS, Option, closest

#: Exit codes: the server cannot start; the command line is wrong.
FAILED, WRONG = 1, 2


def die(sentence: str, code: int = FAILED) -> NoReturn:
    """End the process with one sentence on the standard error stream."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(f"channelserver: {sentence}\n")
    stream.flush()
    raise SystemExit(code)


def _help(option: Option) -> str:
    text = option.help + (", may be given more than once" if option.repeatable else "")
    if option.kind in ("flag", "no-flag") or option.default in (None, (), ""):
        return text
    shown = f"{option.default:g}" if option.kind == "float" else option.default
    return f"{text} [default: {shown}{' ' + option.unit if option.unit else ''}]"


class Options(usage.Options):
    """The command line, generated from the table of options."""

    #: What starts the server, for texts.
    program = "channelserver serve"
    longdesc = (
        "Serve a Django site, HTTP and WebSocket, from this one process. "
        "Every option but the first few is also a key of the setting CHANNELSERVER, with _ for -."
    )

    optParameters: Sequence[Any] = [
        [option.name.replace("_", "-"), option.short, None, _help(option)]
        for option in OPTIONS
        if option.kind not in ("flag", "no-flag") and not option.repeatable
    ]
    optFlags: Sequence[Any] = [
        [option.flag[2:], option.short, _help(option)] for option in OPTIONS if option.kind in ("flag", "no-flag")
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; an error ends the process with one sentence instead of the whole help."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            die(f"{self.with_hint(str(error))}; see {self.program} --help", WRONG)

    def getSynopsis(self) -> str:
        return f"usage: {self.program} [options]"

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}; options start with --")

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"channelserver {__version__}")
        sys.exit(0)

    def opt_h(self) -> None:
        """Print this help and exit."""
        self.opt_help()

    def given(self) -> dict[str, Any]:
        """Return the options on the command line, by name."""
        values: dict[str, Any] = {}
        for option in OPTIONS:
            value = self.get(option.flag[2:])
            if option.kind in ("flag", "no-flag"):
                if value:
                    values[option.name] = option.kind == "flag"
            elif value not in (None, []):
                values[option.name] = value
        return values

    def with_hint(self, text: str) -> str:
        """Add the most similar option to an error about an unknown one."""
        words = [word for word in text.split() if word.startswith("--")]
        near = closest(words[0].removeprefix("--no-").removeprefix("--")) if words and "not recognized" in text else ""
        return f"{text}; did you mean {BY_NAME[near].flag}?" if near else text


def _add_repeatable(option: Option) -> None:
    """Add to :class:`Options` the method with which ``usage.Options`` reads a repeatable option."""

    def collect(self: Options, value: str) -> None:
        self.setdefault(option.flag[2:], []).append(value)

    collect.__doc__ = _help(option)
    setattr(Options, "opt_" + option.name, collect)
    if option.short:
        setattr(Options, "opt_" + option.short, collect)


for _option in OPTIONS:
    if _option.repeatable:
        _add_repeatable(_option)


def refuse_misplaced(words: Sequence[str]) -> None:
    """End the process if an option of ours is among the words before ``channelserver`` in a command of ``twistd``."""
    ours = {option.flag for option in OPTIONS}
    for word in words:
        flag = word.partition("=")[0]
        if flag in ours:
            die(f"{flag} is an option of channelserver and comes after it: twistd -n channelserver {word} …", WRONG)
