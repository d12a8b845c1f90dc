"""Jobs of all kinds."""

import asyncio
import contextlib
import fcntl
import os
import time

from channelserver.jobs import Cancel, Retry, claimer, job, once, schedule
from channelserver.jobs.compat import task
from work.models import Effect

if os.environ.get("NEVER_LOOKING"):  # then a job runs only if somebody wakes the server
    claimer.LOOK_SECONDS = 3600.0


def note(key):
    """Leave a line in a file of this project, which no transaction takes back."""
    with open("effects.txt", "a") as stream:
        stream.write(f"{key} {os.getpid()}\n")


@task
def effect(key):
    note(key)
    return key


@task
@job(retries=0, atomic=True)
def row(key):
    Effect.objects.create(key=key, pid=os.getpid())


@task
@job(retries=2, backoff=[0.3, 0.6])
def failing(key):
    with open("tries.txt", "a") as stream:
        print(time.time(), file=stream)
    raise ValueError(key)


@task
def sleeping(key, seconds):
    note(f"{key}-begins")
    time.sleep(seconds)
    note(key)


@task
async def waiting(key, seconds):
    note(f"{key}-begins")
    await asyncio.sleep(seconds)
    note(key)
    return key


@task
@job(retries=0, timeout=0.2)
async def late(key):
    await asyncio.sleep(600)


@task(takes_context=True)
@job(retries=1, backoff=0)
async def remembering(context, key):
    if context.attempt == 1:
        raise ValueError(key)
    note(f"{key}-{len(context.task_result.errors)}")


@task(takes_context=True)
@job(timeout=0.2)
def looping(context, key):
    note(f"{key}-begins")
    while not context.cancelled:
        time.sleep(0.01)
    note(key)


@task
@job(timeout=0.1)
def stubborn(key, seconds):
    time.sleep(seconds)
    note(key)


@task
def poison(key):
    note(key)
    os._exit(1)


@task
@job(unique=True)
def alone(key):
    note(key)


@task
@job(concurrency=("two", 2), retries=0)
def two(key):
    """Hold one of two locks, which the kernel frees when the process ends."""
    with contextlib.ExitStack() as stack:
        for lock in [stack.enter_context(open(f"two-{number}.lock", "w")) for number in range(2)]:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            note("third")
        note(key)
        time.sleep(0.02)


@task
@job(concurrency=("one", 1))
async def holding(key):
    """Hold a place until somebody says that it is enough."""
    note(f"{key}-begins")
    while not os.path.exists("enough"):
        await asyncio.sleep(0.01)


@task
@job(concurrency=("one", 1))
def single(key):
    note(key)


@task
def short(key):
    note(key)
    time.sleep(0.02)


@task
@job(retries=3)
def first_time(key):
    with once(key) as first:
        if first:
            note(f"{key}-once")
    note(key)
    raise Retry(in_=0) if sum(line.startswith(f"{key} ") for line in open("effects.txt")) < 3 else Cancel("enough")


if os.environ.get("TICKING"):

    @schedule("* * * * *", name="minutes")
    @task
    def minutes():
        note("minute")


@task
def sees(key):
    note(f"{key}-{Effect.objects.filter(key=key).count()}")
