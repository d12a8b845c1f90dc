"""What happened, for the test to read; and where to wait until the test says so."""

import json
import threading
import time
from pathlib import Path

_folder = Path(__file__).resolve().parent
_lock = threading.Lock()


def note(what, **details):
    entry = {"what": what, "thread": threading.current_thread().name, "time": time.monotonic(), **details}
    with _lock, open(_folder / "diary", "a") as stream:
        stream.write(json.dumps(entry) + "\n")


def wait_for_gate(name):
    note("at gate", gate=name)
    ends = time.monotonic() + 100
    while not (_folder / ("gate-" + name)).exists():
        if time.monotonic() > ends:
            raise TimeoutError("the test did not open the gate " + name)
        time.sleep(0.002)
    note("through gate", gate=name)


def read():
    """Return what was noted so far."""
    diary = _folder / "diary"
    lines = diary.read_text().split("\n")[:-1] if diary.exists() else []
    return [json.loads(line) for line in lines]
