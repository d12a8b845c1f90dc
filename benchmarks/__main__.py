"""The benchmarks' command line: ``python -m benchmarks``, from a checkout.

Needs Python, ``wrk`` and Redis: it creates its own virtual environment and continues there. ``--list`` and wrong
arguments need no environment.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks import chart, environment, own_site, publish, raw, report
from benchmarks.http_load import check_wrk, wrk_version
from benchmarks.machine import Cores, describe, raise_file_limit
from benchmarks.peers import PEERS
from benchmarks.plan import WORKS, Plan, PlanError, compare_checkout
from benchmarks.run import Run
from benchmarks.servers import MeasuringError, find_redis

DOCS = environment.ROOT / "docs"
JSON = environment.HERE / "results.json"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure channelserver and its peers on the same work."
    )
    made.add_argument(
        "--work", action="append", default=[], metavar="NAME", help="a work, or a pattern such as 'http-*'; repeatable"
    )
    made.add_argument("--peer", action="append", default=[], metavar="NAME", help="a server, or a pattern; repeatable")
    made.add_argument(
        "--against", type=Path, metavar="CHECKOUT",
        help="instead of the peers: another checkout of channelserver, such as a 'git worktree' of an earlier commit",
    )  # fmt: skip
    made.add_argument(
        "--site", metavar="SETTINGS",
        help="instead of the works: your own project, such as mysite.settings, in whose folder you are",
    )  # fmt: skip
    made.add_argument("--path", default="/", help="with --site: the page to ask for (default: /)")
    made.add_argument("--rounds", type=_count, default=3, help="number of rounds (default: 3)")
    made.add_argument(
        "--seconds",
        type=_count,
        default=1,
        help="length of a turn; a round has 1 to 3 turns of each server (default: 1)",
    )
    made.add_argument(
        "--docs",
        type=Path,
        metavar="FOLDER",
        help="write tables, chart and turns for the documentation (default, for a whole run: docs)",
    )
    made.add_argument("--chart", type=Path, metavar="PATH", help="write the chart, as SVG")
    made.add_argument(
        "--json", type=Path, default=JSON, metavar="PATH", help="all turns (default: benchmarks/results.json)"
    )
    made.add_argument("--rst", type=Path, metavar="PATH", help="write the tables, as reStructuredText")
    made.add_argument("--list", action="store_true", help="print the works and the servers, and exit")
    return made


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
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
    """Run the command line; return the exit status: 1 if a measurement failed."""
    made = parser()
    options = made.parse_args(arguments)
    if options.site:
        if options.work or options.peer or options.against:
            made.error("--site measures your own project on all servers; leave out --work, --peer and --against")
        return own_site.measure(options.site, options.path, options.rounds, options.seconds)
    try:
        if options.against:
            compare_checkout(options.against)
        if options.list:
            print_list()
            return 0
        plan = Plan(options.work, options.peer)
    except PlanError as error:
        made.error(str(error))
    try:
        if any("wrk" in work.load for work in plan.works):
            check_wrk()
        sockets = raise_file_limit()
        if plan.sockets > sockets:
            raise MeasuringError(
                f"the works open {plan.sockets} sockets, but the limit of open files allows {sockets};"
                " raise 'ulimit -Hn', or select other works with --work"
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
    """Warn early if Redis is missing: its works fail, the others run."""
    names = [work.name for work in plan.works if work.site.redis]
    if names:
        try:
            find_redis()
        except MeasuringError as error:
            print(f"benchmarks: {error}; without it, not measured: {', '.join(names)}", file=sys.stderr)


def measure(plan: Plan, options: argparse.Namespace) -> int:
    """Run the plan, print the tables, write the files."""
    cores = Cores.choose()
    if cores.shared:
        print("benchmarks: servers and load share one core: ratios mean little, figures nothing", file=sys.stderr)
    machine = describe(cores) | {"load generators": f"HTTP: {wrk_version()}; WebSocket: benchmarks/sockets.py"}
    cores.pin_load()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the running servers would stay
    try:
        results = Run(plan, cores, options.rounds, options.seconds).go()
    except KeyboardInterrupt:
        print("benchmarks: interrupted; no file is written", file=sys.stderr)
        return 130
    about = (machine, options.rounds, options.seconds)
    print(report.as_text(results, *about))
    options.json.write_text(raw.as_json(results, *about))
    if options.rst:
        options.rst.write_text(report.as_rst(results, *about))
    if options.chart:
        chart.draw(results, options.chart)
    folder = options.docs or (DOCS if plan.whole and not options.against else None)
    if folder:
        publish.publish(results, folder, *about)
    return 1 if results.failures else 0


def _main() -> int:
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # as with "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(_main())
