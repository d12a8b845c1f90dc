"""The options on a command line: of ``channelserver serve`` and its like, and of ``twistd channelserver``.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NoReturn

from twisted.logger import Logger
from twisted.python import usage

from channelserver import __version__
from channelserver.server.common.option import Option
from channelserver.server.common.options import BY_NAME, OPTIONS, closest
from channelserver.start.foreign_flags import NOT_NEEDED, SYNONYMS

_log = Logger("channelserver")

#: Exit codes: the server cannot start; the command line is wrong.
FAILED, WRONG = 1, 2

#: The widest line of the help.
WIDTH = 100

EXAMPLES = (
    ("serve", "the project whose manage.py is here, at http://127.0.0.1:8000/"),
    ("serve --bind 0.0.0.0 --port 80", "for everybody, on port 80"),
    ("serve --settings mysite.settings --processes 4", "another project, in four processes"),
    ("serve --max-body-bytes 10MB --http-timeout 2m", "sizes and times may have units"),
    ("check", "what would fail in production?"),
)

#: Where options can stand.
PLACES = """Each option can also be set by a variable of the environment, shown in brackets, or by the setting
CHANNELSERVER, a dict such as {"ping_interval": 30, "static": False}. The command line comes before the environment, the
environment before the setting. A variable for an option that may be repeated is a list with commas; one for a switch is
true or false. Sizes may end in KB, MB, GB, KiB, MiB or GiB, times in ms, s, m or h."""


def die(sentence: str, code: int = FAILED) -> NoReturn:
    """End the process with one sentence on the standard error stream."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(f"channelserver: {sentence}\n")
    stream.flush()
    raise SystemExit(code)


def wrong(sentence: str, program: str) -> NoReturn:
    """End the process with what is wrong with its command line, and where help is."""
    die(f"{sentence}{' See' if sentence.endswith('?') else '; see'} {program} --help", WRONG)


class Options(usage.Options):
    """The command line, generated from the table of options."""

    #: What starts the server, for texts.
    program = "channelserver serve"

    optParameters: Sequence[Any] = [
        [option.name.replace("_", "-"), option.short, None, option.help]
        for option in OPTIONS
        if option.kind not in ("flag", "no-flag") and not option.repeatable
    ]
    optFlags: Sequence[Any] = [
        [option.flag[2:], option.short, option.help] for option in OPTIONS if option.kind in ("flag", "no-flag")
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; an error ends the process with one sentence instead of the whole help."""
        words = list(sys.argv[1:] if options is None else options)
        if words and not words[0].startswith("-"):
            words.append(words.pop(0))  # gunicorn and uvicorn have the application first
        try:
            super().parseOptions(words)
        except usage.UsageError as error:
            wrong(self.with_hint(str(error)), self.program)

    def parseArgs(self, *arguments: str) -> None:
        if not arguments:
            return
        word, *more = arguments
        if more or not re.fullmatch(r"[A-Za-z_][\w.]*[.:]\w+", word):
            hint = "options start with --"
            if word.isdigit():
                hint = f"did you mean --port {word}?"
            elif re.fullmatch(r"[^:]+:\d+", word):
                hint = f"did you mean --bind {word}?"
            raise usage.UsageError(f"unexpected argument {(more or arguments)[-1]!r}; {hint}")
        if re.search(r"(^|\.)settings(\.|$)", word):
            raise usage.UsageError(f"unexpected argument {word!r}; did you mean --settings {word}?")
        self["app"] = word
        _log.info("{word} is taken as --app {word}", word=word)

    def postOptions(self) -> None:
        bind, port = re.fullmatch(r"([^:]+|\[.*\]):(\d+)|.*", self["bind"] or "", re.DOTALL).groups()  # type: ignore[union-attr]
        if port is not None:
            self["bind"], self["port"] = bind.strip("[]"), self["port"] or port
            _log.info("--bind {bind}:{port} is taken as --bind {bind} --port {port}", bind=bind, port=port)

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"channelserver {__version__}")
        sys.exit(0)

    def opt_h(self) -> None:
        """Print this help and exit."""
        self.opt_help()

    def getSynopsis(self) -> str:
        return f"usage: {self.program} [options]\n"

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: examples, then the options by what they are for."""
        return "\n".join(_help(self.program, width or WIDTH))

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
        """Add the cure to an error about an unknown option."""
        word = next((word for word in text.split() if word.startswith("-")), "")
        # "--timeout not a unique prefix": of --timeout-keep-alive and others.
        if word in NOT_NEEDED and ("not recognized" in text or "not a unique prefix" in text):
            return f"{word} is an option of another server; {NOT_NEEDED[word]}"
        if not word or "not recognized" not in text:
            return text
        near = closest(word.removeprefix("--no-").removeprefix("--")) if word.startswith("--") else ""
        return f"{text}; did you mean {BY_NAME[near].flag}?" if near else text


def _add_repeatable(option: Option) -> None:
    """Add to :class:`Options` the method with which ``usage.Options`` reads a repeatable option."""

    def collect(self: Options, value: str) -> None:
        self.setdefault(option.flag[2:], []).append(value)

    setattr(Options, "opt_" + option.name, collect)
    if option.short:
        setattr(Options, "opt_" + option.short, collect)


def _add_synonym(other: str, option: Option) -> None:
    """Have :class:`Options` understand another server's name of an option."""

    def understand(self: Options, value: str) -> None:
        _log.info("{other} is taken as {flag}", other=other, flag=option.flag)
        if option.repeatable:
            self.setdefault(option.flag[2:], []).extend(value.split(","))
        else:
            self[option.flag[2:]] = value

    setattr(Options, "opt_" + other.lstrip("-").replace("-", "_"), understand)


for _option in OPTIONS:
    if _option.repeatable:
        _add_repeatable(_option)
for _other, _name in SYNONYMS.items():
    _add_synonym(_other, BY_NAME[_name])


def _help(program: str, width: int) -> Iterable[str]:
    yield "Serves a Django site, HTTP and WebSocket, from one process. Examples:\n"
    twistd = program.startswith("twistd")
    for example, meaning in EXAMPLES:
        command = example.replace("serve", "twistd -n channelserver", 1) if twistd else f"channelserver {example}"
        if not twistd or example != "check":
            yield f"  {command}\n      {meaning}"
    yield "\n" + textwrap.fill(PLACES, width)
    for group, options in groupby(OPTIONS, lambda option: option.group):
        yield f"\n{group}:"
        for option in options:
            short = f"-{option.short}, " if option.short else ""
            yield f"  {short}{option.flag}{_placeholder(option)}"
            yield textwrap.fill(_explained(option), width, initial_indent=" " * 10, subsequent_indent=" " * 10)
    yield "\nOther:\n  -h, --help\n          print this help\n  --version\n          print the version\n"


def _placeholder(option: Option) -> str:
    if option.kind in ("flag", "no-flag"):
        return ""
    if option.choices:
        return " " + "|".join(option.choices)
    return " " + ((option.unit if option.kind != "str" else "") or option.name.rpartition("_")[2]).upper()


def _explained(option: Option) -> str:
    text = option.help + (", may be given more than once" if option.repeatable else "")
    if option.kind not in ("flag", "no-flag") and option.default not in (None, (), ""):
        text += f" [default: {_default(option)}]"
    return f"{text} [{', '.join(option.variables)}]" if option.variables else text


def _default(option: Option) -> str:
    if option.unit == "bytes":
        for name, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if option.default % size == 0:
                return f"{option.default // size} {name}"
    return f"{option.default:g} {option.unit}".strip() if option.kind == "float" else str(option.default)


def refuse_misplaced(words: Sequence[str]) -> None:
    """End the process if an option of ours is among the words before ``channelserver`` in a command of ``twistd``."""
    ours = {option.flag for option in OPTIONS}
    for word in words:
        flag = word.partition("=")[0]
        if flag in ours:
            die(f"{flag} is an option of channelserver and comes after it: twistd -n channelserver {word} …", WRONG)
