"""The command ``channelserver``: ``serve``, ``demo``, ``check``, ``send``, ``work``, ``pack`` and ``version``.

Runs in the main thread. Each command imports what it needs: ``send`` is for cron jobs, and needs no server.
"""

from __future__ import annotations

import difflib
import os
import platform
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from channelserver import __version__
from channelserver.server.common.collector import look_seldom

Arguments = list[str]


#: What commands are called elsewhere.
OTHER_NAMES = {"-h": "help", "--help": "help", "-V": "version", "--version": "version", "runworker": "work"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    :param arguments: without the program's name; default: those of the process.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    name = OTHER_NAMES.get(name, name)
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in COMMANDS:
        try:
            COMMANDS[name][0](rest)
            if sys.stdout is not None:  # it is open
                sys.stdout.flush()
        except BrokenPipeError:  # channelserver serve --help | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(1) from None
        return
    from channelserver.start.parser import wrong

    words = " ".join((name, *rest))
    if name.startswith("-"):
        wrong(f"{name} comes after a command: channelserver serve {words}", "channelserver")
    near = next(iter(difflib.get_close_matches(name, COMMANDS)), "")
    if "." in name or ":" in name:
        hint = f"to serve a project write channelserver serve --app {name}"
    else:
        hint = f"did you mean {near}?" if near else f"there are {', '.join(COMMANDS)}"
    wrong(f"there is no command {name!r}; {hint}", "channelserver")


def serve(arguments: Arguments) -> None:
    """Serve a Django site in the foreground."""
    look_seldom()
    _serve(_options("serve", arguments))


def demo(arguments: Arguments) -> None:
    """Serve the built-in chat site, stored in a temporary folder."""
    look_seldom()
    _serve({**_options("demo", arguments), "demo": True})


def check(arguments: Arguments) -> None:
    """Say what would fail in production, also beside a running server; exit with 0 or 1."""
    from channelserver.start import command

    command.check(_options("check", arguments), production=True)


def send(arguments: Arguments) -> None:
    """Send a message to a channel or a group of the running server."""
    _manage("send", arguments)


def work(arguments: Arguments) -> None:
    """Run consumers in a process beside the server (manage.py runworker)."""
    look_seldom()
    _manage("runworker", arguments, "work")


def pack(arguments: Arguments) -> None:
    """Make one executable file of the project, for machines without Python."""
    from channelserver.packing.command import run

    run("channelserver pack", arguments)


def version(arguments: Arguments) -> None:
    """Print the version."""
    import django

    import twisted

    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"channelserver {__version__} (Django {django.__version__}, Twisted {twisted.__version__}, {python})")


def show_help(arguments: Arguments) -> None:
    """Show this help, or that of a command."""
    print("usage: channelserver COMMAND [options]\n")
    for name, (function, example) in COMMANDS.items():
        print(f"  {name:<9}{(function.__doc__ or '').strip()}")
        if example:
            print(f"{'':11}channelserver {example}")
    print(
        "\nA project is found by the manage.py of the current folder, or named by --settings mysite.settings.\n"
        "Commands stay in the foreground. channelserver COMMAND --help lists the options of a command."
    )


#: The commands, each with an example.
COMMANDS: dict[str, tuple[Callable[[Arguments], None], str]] = {
    "serve": (serve, "serve --port 8000"),
    "demo": (demo, "demo"),
    "check": (check, "check"),
    "send": (send, 'send --group chat \'{"text": "hello"}\''),
    "work": (work, "work --only-channels 'mail.*'"),
    "pack": (pack, "pack"),
    "version": (version, ""),
    "help": (show_help, ""),
}


def _serve(options: dict[str, Any]) -> None:
    if options.get("demo"):
        _say("the chat site is being set up, which takes a few seconds", options)
    from channelserver.start import command

    command.serve(options)


def _say(text: str, options: dict[str, Any]) -> None:
    """Log a line before Django, Twisted and the server are imported, which takes longest on a machine that is busy."""
    from channelserver.server.common.lines import LEVELS, Lines
    from channelserver.server.common.option import OptionError
    from channelserver.server.common.options import resolve

    try:
        values = resolve(options, {})
    except OptionError:
        return  # the server says so
    if values.log_level in LEVELS[:2] and {"check", "settings", "app", "pythonpath"}.isdisjoint(options):
        terminal = sys.stdout is not None and sys.stdout.isatty()  # None: it is closed
        as_json = values.log_format == "json" if values.log_format else not terminal
        print(Lines(as_json, terminal).line("info", "channelserver", text), flush=True)


def _options(name: str, arguments: Arguments) -> dict[str, Any]:
    """Return the server's options on a command line, by name."""
    from channelserver.start.parser import Options

    options = Options()
    options.program = f"channelserver {name}"
    options.parseOptions(arguments)
    return options.given()


def _manage(name: str, arguments: Arguments, shown: str = "") -> None:
    """Run a management command of ours, which need not be in ``INSTALLED_APPS``.

    :param shown: its name here, if it has another one.
    """
    from django.core.management import load_command_class

    from channelserver.start import project
    from channelserver.start.parser import die

    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-s", "--settings")
    parser.add_argument("--pythonpath")
    place, rest = parser.parse_known_args(arguments)
    if not {"-h", "--help"}.intersection(rest):
        try:
            where = os.environ.get
            project.set_up(
                place.settings or where("CHANNELSERVER_SETTINGS"), place.pythonpath or where("CHANNELSERVER_PYTHONPATH")
            )
        except project.StartError as error:
            die(str(error))
    load_command_class("channelserver", name).run_from_argv(["channelserver", shown or name, *rest])
