"""What this process gets, in a file of its own: h and its name among the hosts of Redis; b and an identity when a
consumer or a view begins, e when it is about to return, f when it has returned and what it had sent is on its way.
"""

import os
import threading
import time
from pathlib import Path

from channelserver import channel_layers
from channelserver.signals import consumer_finished

_folder = Path(__file__).resolve().parent / "records"
_local = threading.local()
_file = [0, -1]


def write(text):
    if _file[0] != os.getpid():
        _file[:] = os.getpid(), os.open(_folder / str(os.getpid()), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        write(f"h {getattr(channel_layers['default'].channel_layer, '_name', '')}")
    os.write(_file[1], f"{text}\n".encode())


def begin(identity):
    write(f"b {identity}")


def end(identity):
    _local.last = identity
    write(f"e {identity}")


def _finished(**kwargs):
    last, _local.last = getattr(_local, "last", None), None
    if last is not None:
        write(f"f {last}")


consumer_finished.connect(_finished)
if not _folder.exists():
    _folder.mkdir(exist_ok=True)
started = time.time()
