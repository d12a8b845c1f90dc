"""HTTP requests without pause, by ``wrk``.

Runs ``wrk`` as a process on the load generator's core, and waits for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess

from benchmarks.apps.sizes import LARGE
from benchmarks.servers import ANSWER_TIMEOUT, MeasuringError, Server

_REPORT = """
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\\n{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "late": %d}\\n', summary.requests,
        summary.duration, errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
"""
_UPLOAD = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.body = string.rep("x", {LARGE})
"""


def check_wrk() -> None:
    """See whether there is a ``wrk``.

    :raises MeasuringError: there is none.
    """
    if shutil.which("wrk") is None:
        raise MeasuringError("the program wrk, which makes the HTTP load, is missing; on Debian: apt-get install wrk")


class HttpLoad:
    """Requests to one path for some seconds, which begin now.

    :param connections: how many are kept alive, each with one request under way.
    :param upload: whether each request brings a large body.
    """

    def __init__(self, server: Server, path: str, connections: int, seconds: int, upload: bool = False) -> None:
        self._server = server
        self._longest = seconds + 2 * ANSWER_TIMEOUT
        script = server.folder / "wrk.lua"
        script.write_text((_UPLOAD if upload else "") + _REPORT)
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{ANSWER_TIMEOUT:g}s", "--script", str(script)]
        command += [f"http://127.0.0.1:{server.port}{path}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self) -> float:
        """Wait until the requests have been made; return how many there were a second.

        :raises MeasuringError: some of them were not answered as they should be.
        """
        try:
            output, _ = self._process.communicate(timeout=self._longest)
        finally:
            self._process.kill()  # an interrupt must not leave it behind
        report = next((line for line in output.splitlines() if line.startswith("{")), None)
        if self._process.returncode or report is None:
            raise self._server.failure(f"could not be measured, for wrk failed:\n{output}")
        counted = json.loads(report)
        if counted["refused"] or counted["broken"] or not counted["requests"]:
            raise self._server.failure(f"did not answer all requests well: {report}")
        return float(counted["requests"] / counted["microseconds"] * 1e6)
