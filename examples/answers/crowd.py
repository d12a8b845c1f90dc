#!/usr/bin/env python
"""Reads many answers at once, each as a browser does, and asks the plain view meanwhile.

Fails unless every answer is complete and in order. Needs nothing but Python and Django.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from urllib.parse import quote, urlsplit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "answers.settings")

from answers.model import tokens_of


async def get(host, port, path):
    """Send a request; return the reader and the writer of its connection, with the head of the answer read."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return reader, writer


async def lines(reader):
    """Yield the lines of the events in a chunked body. (Each event is a chunk; other lines have no colon.)"""
    async for line in reader:
        line = line.decode().rstrip("\r\n")
        if ":" in line:
            yield line


async def read_answer(host, port, question):
    """Read an answer and compare it."""
    reader, writer = await get(host, port, f"/answer/?q={quote(question)}")
    numbers, tokens, ended = [], [], False
    async for line in lines(reader):
        field, _, value = line.partition(": ")
        if field == "event":
            ended = value == "end"
        elif field == "id":
            numbers.append(int(value))
        elif not ended:
            tokens.append(json.loads(value))
    writer.close()
    assert ended, f"{question!r} broke off after {len(tokens)} tokens"
    assert numbers == list(range(len(numbers))) and tokens == tokens_of(question), (question, numbers, tokens)


async def ask_plain_view(host, port, found):
    """Ask the plain view again and again; note how long it took, and how many answers were under way."""
    while True:
        began = time.perf_counter()
        reader, writer = await get(host, port, "/now/")
        answers = json.loads(await reader.read())["answers"]
        writer.close()
        found.append((time.perf_counter() - began, answers))
        await asyncio.sleep(0.02)


async def main():
    """Do both at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--users", type=int, default=100)
    options = parser.parse_args()
    url = urlsplit(options.url)
    where = url.hostname, url.port or 80
    began, found = time.perf_counter(), []
    plain = asyncio.create_task(ask_plain_view(*where, found))
    await asyncio.gather(*(read_answer(*where, f"What is {number}?") for number in range(options.users)))
    seconds = time.perf_counter() - began
    assert not plain.done(), plain
    plain.cancel()
    most = max(answers for _, answers in found)
    print(f"{options.users} answers, complete and in order, in {seconds:.1f} s; at most {most} at once")
    times = sorted(1000 * duration for duration, _ in found)
    print(
        f"plain view meanwhile: {len(times)} requests, median {statistics.median(times):.1f} ms, "
        f"p99 {times[int(len(times) * 0.99)]:.1f} ms, slowest {times[-1]:.1f} ms"
    )


asyncio.run(main())
