"""What one file costs: its size, packing it, its first and later starts, its memory; beside the same site unpacked.

``python -m benchmarks.one_file [--python PATH] [--starts N]``. Processor time, not time on the clock, so that another
load on the machine changes little. `PATH` is the interpreter of an environment that has channelserver and nothing that
only tests need.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.servers import free_port

#: Seconds that a server has until it answers.
START_SECONDS = 60.0


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_file", description="Measure a packed site.")
    parser.add_argument("--python", default=sys.executable, help="interpreter to pack with (default: this one)")
    parser.add_argument("--starts", type=int, default=7, help="later starts, of which the median counts (default: 7)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        _measure(Path(name), given.python, given.starts)


def _measure(folder: Path, python: str, starts: int) -> None:
    project = folder / "project"
    shutil.copytree(ROOT / "examples" / "chat", project, ignore=shutil.ignore_patterns("data", "__pycache__"))
    file = folder / "server" / "chat"
    file.parent.mkdir()
    manage = [python, "manage.py"]
    begins = time.perf_counter()
    seconds = _seconds([python, "-m", "channelserver", "pack", "-o", str(file)], project)
    print(f"packing         {seconds:6.1f} s of processor time, {time.perf_counter() - begins:.1f} s on the clock")
    print(f"size            {file.stat().st_size / 1e6:6.1f} MB")
    print(f"first start     {_seconds([str(file), 'check'], folder):6.2f} s of processor time (check)")
    _seconds([*manage, "check"], project)  # writes bytecode
    later, unpacked = [], []
    for _ in range(starts):  # in turn
        later.append(_seconds([str(file), "check"], folder))
        unpacked.append(_seconds([*manage, "check"], project))
    ours, theirs = statistics.median(later), statistics.median(unpacked)
    print(f"later starts    {ours:6.3f} s; manage.py check {theirs:.3f} s; {1000 * (ours - theirs):+.0f} ms")
    _seconds([str(file), "migrate", "-v0"], folder)
    for command in ("migrate", "collectstatic"):
        _seconds([*manage, command, "-v0", "--no-input"], project)
    packed = _resident([str(file)], folder)
    plain = _resident([python, "-m", "channelserver", "serve"], project)
    print(f"memory, idle    {packed:6.1f} MiB; channelserver serve {plain:.1f} MiB; {packed - plain:+.1f} MiB")


def _seconds(command: list[str], place: Path) -> float:
    """Run a command; return the processor time that it took."""
    before = _children()
    done = subprocess.run(command, cwd=place, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": "", "CHANNELSERVER_LOG_LEVEL": "error"}


def _resident(command: list[str], place: Path) -> float:
    """Start a server, let it answer once; return the memory that it has then, in MiB."""
    port = free_port()
    server = subprocess.Popen(
        [*command, "--port", str(port)], cwd=place, env=_environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _until(lambda: _answers(f"http://127.0.0.1:{port}/"), server)
        lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=START_SECONDS):
            return True
    except OSError:
        return False


def _until(condition: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_SECONDS
    while not condition():
        if server.poll() is not None or time.monotonic() > ends:
            raise SystemExit("the server does not start")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
