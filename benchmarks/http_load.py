"""The load generators for HTTP: ``wrk``, and ``h2load`` for HTTP/2.

Runs one as a process on the load generator's core, and waits for it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess

from benchmarks.apps.sizes import LARGE
from benchmarks.servers import ANSWER_TIMEOUT, MeasuringError, Program

_REPORT = """
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\\n{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "late": %d, "p50": %d, "p99": %d}\\n',
        summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
"""
_UPLOAD = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.body = string.rep("x", {LARGE})
"""


def check_wrk() -> None:
    """Check that ``wrk`` is installed.

    :raises MeasuringError: it is not.
    """
    if shutil.which("wrk") is None:
        raise MeasuringError("wrk, the load generator for HTTP, is missing; on Debian: apt-get install wrk")


def wrk_version() -> str:
    """Return name and version of ``wrk``."""
    try:
        printed = subprocess.run(["wrk", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return "wrk is not installed"
    return printed.partition(" [")[0]


class H2Load:
    """Requests to one path over TLS and HTTP/2, with ``h2load``; they begin at once.

    :param connections, streams: number of connections, and of requests in flight on each.
    :raises MeasuringError: it is not installed.
    """

    def __init__(self, server: Program, path: str, connections: int, streams: int, seconds: int) -> None:
        if shutil.which("h2load") is None:
            raise MeasuringError(
                "h2load, the load generator for HTTP/2, is missing; on Debian: apt-get install nghttp2-client"
            )
        self._server = server
        self._longest = seconds + 2 * ANSWER_TIMEOUT
        command = ["h2load", f"--clients={connections}", f"--max-concurrent-streams={streams}"]
        command += [f"--duration={seconds}", f"https://127.0.0.1:{server.port}{path}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self) -> float:
        """Wait for the end; return the requests a second.

        :raises MeasuringError: a request failed.
        """
        try:
            output, _ = self._process.communicate(timeout=self._longest)
        finally:
            self._process.kill()  # after an interrupt, too
        rate = re.search(r"^finished in .*?, ([0-9.]+) req/s", output, re.MULTILINE)
        if rate is None or "Application protocol: h2\n" not in output or not re.search(r" 0 failed, 0 errored", output):
            raise self._server.failure(f"failed to answer some requests over HTTP/2:\n{output}")
        return float(rate[1])


class HttpLoad:
    """Requests to one path; they begin at once.

    :param connections: number of kept-alive connections, each with one request in flight.
    :param upload: whether each request has a large body.
    """

    #: Latency in milliseconds: median and 99th percentile; known at the end. Without any answer: the whole time.
    p50 = p99 = 0.0

    def __init__(self, server: Program, path: str, connections: int, seconds: int, upload: bool = False) -> None:
        self._server = server
        self._longest = seconds + 2 * ANSWER_TIMEOUT
        script = server.folder / "wrk.lua"
        script.write_text((_UPLOAD if upload else "") + _REPORT)
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{ANSWER_TIMEOUT:g}s", "--script", str(script)]
        command += [f"http://127.0.0.1:{server.port}{path}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, unanswered: bool = False) -> float:
        """Wait for the end; return the requests a second.

        :param unanswered: the server need not answer any request.
        :raises MeasuringError: a request failed.
        """
        try:
            output, _ = self._process.communicate(timeout=self._longest)
        finally:
            self._process.kill()  # after an interrupt, too
        report = next((line for line in output.splitlines() if line.startswith("{")), None)
        if self._process.returncode or report is None:
            raise self._server.failure(f"was not measured, because wrk failed:\n{output}")
        counted = json.loads(report)
        if counted["refused"] or counted["broken"] or not (counted["requests"] or unanswered):
            raise self._server.failure(f"failed to answer some requests: {report}")
        self.p50, self.p99 = (
            counted[name if counted["requests"] else "microseconds"] / 1000 for name in ("p50", "p99")
        )
        return float(counted["requests"] / counted["microseconds"] * 1e6)
