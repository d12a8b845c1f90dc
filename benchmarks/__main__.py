"""The benchmarks' command line: ``python -m benchmarks``, from a checkout.

Needs nothing but Python, ``wrk`` and Redis: it makes a virtual environment of its own, and goes on in it. ``--list``
and wrong arguments are dealt with before that.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from benchmarks import environment, report
from benchmarks.http_load import check_wrk
from benchmarks.machine import Cores, describe, raise_file_limit
from benchmarks.peers import PEERS
from benchmarks.plan import WORKS, Plan, PlanError
from benchmarks.run import Run
from benchmarks.servers import MeasuringError, find_redis

CHART = environment.ROOT / "docs" / "performance.png"
JSON = environment.HERE / "results.json"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure channelserver beside its peers, on the same work."
    )
    made.add_argument(
        "--work", action="append", default=[], metavar="NAME", help="a work, or a pattern such as 'http-*'; repeatable"
    )
    made.add_argument("--peer", action="append", default=[], metavar="NAME", help="a server, or a pattern; repeatable")
    made.add_argument("--rounds", type=_count, default=3, help="how often all have their turns (default: 3)")
    made.add_argument(
        "--seconds", type=_count, default=1, help="of each turn, of which there are 1 to 3 in a round (default: 1)"
    )
    made.add_argument(
        "--chart",
        type=Path,
        metavar="PATH",
        help="PNG file for the chart (default, for a whole run: docs/performance.png)",
    )
    made.add_argument("--json", type=Path, default=JSON, metavar="PATH", help="default: benchmarks/results.json")
    made.add_argument("--rst", type=Path, metavar="PATH", help="also write the tables as reStructuredText")
    made.add_argument("--list", action="store_true", help="print the works and the servers, and end")
    return made


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def print_list() -> None:
    """Print all works with their servers, and all servers."""
    print("works (--work):")
    for work in WORKS.values():
        print(f"  {work.name:16} {work.title}")
        print(f"  {'':16} {', '.join(work.peers)}")
    print("servers (--peer):")
    for peer in PEERS.values():
        print(f"  {peer.name:23} {peer.title}")


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status: 1 if something could not be measured."""
    made = parser()
    options = made.parse_args(arguments)
    if options.list:
        print_list()
        return 0
    try:
        plan = Plan(options.work, options.peer)
    except PlanError as error:
        made.error(str(error))
    try:
        if any(work.name.startswith(("http-", "processes", "threads-", "mixed-answers")) for work in plan.works):
            check_wrk()
        sockets = raise_file_limit()
        if plan.sockets > sockets:
            raise MeasuringError(
                f"{plan.sockets} sockets are to be opened, but a process may have {sockets} here; raise 'ulimit -Hn',"
                " or choose other works with --work"
            )
        if not environment.is_own():
            environment.prepare()
            environment.enter(arguments)
    except (MeasuringError, environment.PreparationError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    tell_missing_redis(plan)
    return measure(plan, options)


def tell_missing_redis(plan: Plan) -> None:
    """Say early which works will fail if there is no Redis; the others are done all the same."""
    names = [work.name for work in plan.works if work.site.redis]
    if names:
        try:
            find_redis()
        except MeasuringError as error:
            print(f"benchmarks: {error}; without it, not measured: {', '.join(names)}", file=sys.stderr)


def measure(plan: Plan, options: argparse.Namespace) -> int:
    """Measure, print the tables, write the files."""
    cores = Cores.choose()
    if cores.shared:
        print("benchmarks: there is one core for servers and load: ratios say little, figures nothing", file=sys.stderr)
    machine = describe(cores)
    cores.pin_load()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server that is running would stay
    try:
        results = Run(plan, cores, options.rounds, options.seconds).go()
    except KeyboardInterrupt:
        print("benchmarks: interrupted; nothing has been written", file=sys.stderr)
        return 130
    print(report.as_text(results, machine, options.rounds, options.seconds))
    options.json.write_text(json.dumps(results.as_json(machine, options.rounds, options.seconds), indent=1) + "\n")
    if options.rst:
        options.rst.write_text(report.as_rst(results, machine, options.rounds, options.seconds))
    chart = options.chart or (CHART if plan.whole else None)
    if chart:
        from benchmarks.chart import draw  # not before: it needs the environment

        draw(results, chart)
    return 1 if results.failures else 0


def _main() -> int:
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # as with "| head": who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes in the end
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(_main())
