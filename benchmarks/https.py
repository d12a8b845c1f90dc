"""HTTPS by itself: handshakes while certificates are exchanged, the time to a certificate, the time to a refusal.

``python -m benchmarks.https [--rate N] [--seconds N]``, where channelserver is installed. Orders need ``pebble`` and
``pebble-challtestsrv`` on the PATH. Clients resume no sessions; half of them speak TLS 1.2, where a client knows the
server's verdict when its handshake ends.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.servers import free_port

#: Client processes, seconds between two exchanges of the certificate, and certificates that take turns.
CLIENTS, EXCHANGE_SECONDS, CERTIFICATES = 4, 0.5, 4
#: Seconds that anything may take.
PATIENCE = 60.0

_SETTINGS = """
SECRET_KEY = "not secret, as nobody comes here but the benchmark"
ALLOWED_HOSTS = [".test"]
ROOT_URLCONF = "bench_settings"
urlpatterns = []
ACME_ALLOW = "bench_settings.allow"

def allow(name, address):
    return False
"""


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.https", description="Measure HTTPS by itself.")
    parser.add_argument("--rate", type=int, default=200, help="connections a second (default: 200)")
    parser.add_argument("--seconds", type=int, default=20, help="of each rate (default: 20)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_settings.py").write_text(_SETTINGS)
        _exchange(folder, given.rate, given.seconds)
        if shutil.which("pebble") is None:
            print("no pebble on the PATH: orders and refusals are not measured")
            return
        for rejected in (0, 50):
            _orders(folder, rejected)


# -- exchanges ---------------------------------------------------------------------------------------------------------


def _exchange(folder: Path, rate: int, seconds: int) -> None:
    """Exchange the certificate all the time, while clients connect at a steady rate."""
    from channelserver.server.tls.self_signed import self_signed

    pairs = [b"".join(self_signed(["a.test"])) for _ in range(CERTIFICATES)]
    path, port = folder / "site.pem", free_port()
    path.write_bytes(pairs[0])
    options = ("--bind", "127.0.0.1", "--port", str(port), "--tls-cert", str(path))
    with _serving(folder, *options) as (server, log), ProcessPoolExecutor(CLIENTS) as pool:
        _wait_for(log, "listening on")
        begins = time.time() + 2.0
        jobs = [pool.submit(knock, port, rate / CLIENTS, begins + n / rate, seconds, n % 2) for n in range(CLIENTS)]
        exchanges = 0
        while time.time() < begins + seconds:
            time.sleep(EXCHANGE_SECONDS)
            exchanges += 1
            aside = path.with_suffix(".new")
            aside.write_bytes(pairs[exchanges % CERTIFICATES])
            os.rename(aside, path)
            server.send_signal(signal.SIGHUP)
        times, failed, seen, took = [], 0, set[bytes](), 0.0
        for job in jobs:
            found = job.result(PATIENCE)
            times += found[0]
            failed += found[1]
            seen |= found[2]
            took = max(took, found[3])
    print(
        f"exchange        {len(times) / took:6.1f} handshakes/s of {rate} wanted, {failed} failed; "
        f"{exchanges} exchanges of {len(seen)} certificates; median {_ms(times, 0.5)}, p99 {_ms(times, 0.99)}"
    )


def knock(
    port: int, rate: float, begins: float, seconds: int, older: int
) -> tuple[list[float], int, set[bytes], float]:
    """Connect, shake hands and leave, at a steady rate; what is late is made up for.

    :param begins: POSIX time of the first connection.
    :param older: whether to speak TLS 1.2.
    :returns: the seconds of each handshake, how many failed, the certificates seen, and the seconds it all took.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2 if older else ssl.TLSVersion.TLSv1_3
    times, failed, seen = [], 0, set[bytes]()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, begins + number / rate - time.time()))
        try:
            taken, certificate = _shake_hands(port, "a.test", context)
        except OSError:
            failed += 1
        else:
            times.append(taken)
            seen.add(certificate)
    return times, failed, seen, time.time() - begins


def _shake_hands(port: int, name: str, context: ssl.SSLContext) -> tuple[float, bytes]:
    asked = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            return time.perf_counter() - asked, secure.getpeercert(True) or b""


# -- orders and refusals -----------------------------------------------------------------------------------------------


def _orders(folder: Path, rejected: int) -> None:
    """Order certificates one after the other, each by a fresh server; then have names refused.

    :param rejected: how many of 100 nonces the authority refuses.
    """
    sys.path.insert(0, str(ROOT))
    from tests.pebble import Pebble

    seconds = []
    http, https = free_port(), free_port()
    with Pebble(http_port=http, tls_port=https, rejected=rejected) as pebble:
        for number in range(5):
            store = folder / f"store-{rejected}-{number}"
            options = (
                "--bind", "127.0.0.1", "--https", "a.localhost", "--acme-directory", pebble.directory, "--acme-ca-file",
                pebble.ca_file, "--acme-store", str(store), "--http-port", str(http), "--https-port", str(https),
            )  # fmt: skip
            pebble.point("a.localhost", "127.0.0.1")
            with _serving(folder, *options) as (_, log):
                ends = _wait_for(log, r"certificate \(the first one\)")
                seconds.append(ends - _wait_for(log, "ordering a certificate"))
                if not rejected and number == 4:
                    _refusals(https)
    what = f"{rejected} % of the nonces refused"
    print(f"order           {_ms(seconds, 0.5)} to the certificate (median), {_ms(seconds, 1)} at most; {what}")


def _refusals(port: int) -> None:
    """Measure the handshakes that ACME_ALLOW says no to: at first, when it is asked, and later."""
    context = ssl.create_default_context()
    first, later = [], []
    for number in range(8):  # of ten questions that one address may cause at once
        for times in (first, *[later] * 25):
            asked = time.perf_counter()
            try:
                _shake_hands(port, f"n{number}.test", context)
            except ssl.SSLError as error:
                assert error.reason == "TLSV1_UNRECOGNIZED_NAME", error
            times.append(time.perf_counter() - asked)
    for what, times in (("the first", first), ("later ones", later)):
        print(f"refusal         {_ms(times, 0.5)} (median), {_ms(times, 1)} at most; {what}")


# -- servers -----------------------------------------------------------------------------------------------------------


@contextmanager
def _serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a server; yield it and the file that it logs to."""
    log = folder / f"log-{time.time()}"
    command = [sys.executable, "-m", "channelserver", "serve", "--settings", "bench_settings", "--local-socket", "",
               "--access-log", "", "--log-format", "json", *options]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as stream:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream)
    try:
        yield server, log
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _wait_for(log: Path, pattern: str) -> float:
    """Return the POSIX time of the first line whose message has a pattern, as soon as there is one."""
    from datetime import datetime

    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        for line in log.read_text().splitlines():
            if re.search(pattern, line) and line.endswith("}"):
                return datetime.fromisoformat(json.loads(line)["ts"]).timestamp()
        time.sleep(0.02)
    raise SystemExit(f"the server has not logged {pattern!r}:\n{log.read_text()}")


def _ms(times: list[float], part: float) -> str:
    """Return a quantile in milliseconds."""
    found = max(times) if part == 1 else statistics.quantiles(times, n=100)[round(part * 100) - 1]
    return f"{1000 * found:.1f} ms"


if __name__ == "__main__":
    main()
