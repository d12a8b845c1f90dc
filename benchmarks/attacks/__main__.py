"""The command line: ``python -m benchmarks.attacks``, with a Python that has channelserver's packages.

Each attack has a new server, pinned to a core; attackers and honest clients share another. Everything stays on
loopback.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.attacks import over_http, over_http2, over_websocket, report
from benchmarks.attacks.attack import ATTACKS, Attack
from benchmarks.attacks.run import Outcome, run
from benchmarks.machine import Cores, raise_file_limit
from benchmarks.servers import MeasuringError

#: The crowd of the documentation's table: clients, their addresses, options of the server, seconds.
CROWD, CROWD_ADDRESSES, CROWD_OPTIONS, CROWD_SECONDS = 1000, 250, "--client-memory=209715200", 10.0
#: The modules whose import declares the attacks.
MODULES = (over_http, over_http2, over_websocket)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description="Attack channelserver on loopback, and measure what it costs."
    )
    made.add_argument(
        "--attack",
        action="append",
        default=[],
        metavar="NAME",
        help="an attack, or a pattern such as 'h2-*'; repeatable",
    )
    made.add_argument("--clients", type=int, help="attacking clients (default: as many as --list says)")
    made.add_argument("--seconds", type=float, default=5.0, help="length of an attack (default: 5)")
    made.add_argument("--addresses", type=int, default=1, help="addresses that the clients come from (default: 1)")
    made.add_argument("--options", default="", help="further options of the server, such as '--client-memory=N'")
    made.add_argument("--mix", type=int, metavar="N", help="instead: N clients of the worst attacks at once")
    made.add_argument(
        "--rst",
        type=Path,
        metavar="PATH",
        help="write the table of the documentation: the attacks, then 1000 clients of the worst at once",
    )
    made.add_argument("--list", action="store_true", help="print the attacks, and exit")
    return made


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status: 1 if a server failed or did not recover."""
    made = parser()
    options = made.parse_args(arguments)
    if options.list:
        for each in ATTACKS.values():
            print(f"{each.name:20} {each.clients:5}  {each.title}")
        return 0
    chosen = [each for each in ATTACKS.values() if any(fnmatch(each.name, name) for name in options.attack or ["*"])]
    if not chosen:
        made.error(f"no attack is called {options.attack[0]!r}; see --list")
    raise_file_limit()
    Cores.choose().pin_load()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the running server would stay
    outcomes: list[Outcome] = []
    failed = False
    plan = _plan(chosen, options)
    if options.rst:
        crowd = argparse.Namespace(mix=CROWD, addresses=CROWD_ADDRESSES, options=CROWD_OPTIONS, seconds=CROWD_SECONDS)
        plan += _plan(chosen, crowd)
    for attacks, title, own in plan:
        try:
            outcome = run(attacks, title, own.seconds, shlex.split(own.options), own.addresses)
        except (MeasuringError, RuntimeError) as error:
            print(f"{title}: {error}", file=sys.stderr)
            failed = True
            continue
        print(report.line(outcome), flush=True)
        outcomes.append(outcome)
    print(f"\n{report.table(outcomes)}\n{report.LEGEND}")
    if options.rst:
        options.rst.write_text(report.table(outcomes, report.PUBLISHED))
    return 1 if failed or any(outcome.remains for outcome in outcomes) else 0


def _plan(chosen: list[Attack], options: argparse.Namespace) -> list[tuple[list[Attack], str, argparse.Namespace]]:
    """Return the attacks of all clients, a title and the options, for each server to be attacked."""
    if options.mix:
        worst = [each for each in chosen if each.mixed]
        mix = [worst[number % len(worst)] for number in range(options.mix)]
        return [
            (
                mix,
                f"{options.mix} clients of {len(worst)} kinds at once, from {options.addresses} addresses",
                options,
            )
        ]
    return [([each] * (options.clients or each.clients), each.title, options) for each in chosen]


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # as with "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
