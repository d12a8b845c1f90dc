"""Runs the commands it is given, one after the other, each in a fork of a process that has imported the libraries:
several times as fast as starting anew. A command that has begun to serve is stopped; its exit code is null then.
"""

import json
import os
import runpy
import select
import signal
import sys
import time
import traceback

import django.core.management  # noqa: F401 - for the forks
from twisted.scripts import twistd

import channelserver.start.command  # noqa: F401 - for the forks


def child(command, environment):
    os.environ.update(environment)
    sys.argv = command
    code = 0
    try:
        if command[0] == "twistd":
            twistd.run()
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


def run(command, environment, seconds):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)
        child(command, environment)
    os.close(writer)
    output = b""
    ends = time.monotonic() + seconds
    serves = False
    while not serves and select.select([reader], [], [], max(0, ends - time.monotonic()))[0]:
        part = os.read(reader, 65536)
        if not part:
            break
        output += part
        serves = b"listening on http" in output or b"server at http" in output
    else:
        serves = True
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if serves else code, output.decode(errors="replace")


seconds, commands = json.load(sys.stdin)
json.dump([run(*command, seconds) for command in commands], sys.stdout)
