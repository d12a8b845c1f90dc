import os
import time


def say(line, file):
    with open(file, "a") as stream:
        stream.write(line + "\n")


def wait_for(file):
    ends = time.monotonic() + 120
    while not os.path.exists(file) and time.monotonic() < ends:
        time.sleep(0.01)
