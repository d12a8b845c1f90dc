"""Count the instructions of one operation, with Django as it is and with a change: ``python measure.py script.py``.

Needs valgrind. It runs each script with ``vanilla`` and ``changed``, and with two numbers of operations, so that the
difference is free of everything else. Counting begins where the script calls :func:`start`.
"""

import os
import re
import subprocess
import sys

FEW, MANY = 100, 600


def start() -> None:
    """Begin to count, if valgrind runs this process."""
    if "COUNTING" in os.environ:
        command = ["callgrind_control", "--instr=on", str(os.getpid())]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def instructions(script: str, variant: str, count: int) -> int:
    """Return the instructions of a process that carries out `count` operations."""
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "COUNTING": "1"}
    arguments = [sys.executable, script, variant, str(count)]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1])


if __name__ == "__main__":
    for script in sys.argv[1:]:
        vanilla, changed = (
            (instructions(script, variant, MANY) - instructions(script, variant, FEW)) // (MANY - FEW)
            for variant in ("vanilla", "changed")
        )
        fewer = f"{1 - changed / vanilla:.0%} fewer"
        print(f"{script}: {vanilla} instructions as it is, {changed} with the change ({fewer})", flush=True)
