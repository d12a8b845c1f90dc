"""Sizes and times shared by views, bare servers and load."""

#: Bytes of a large answer and of a large upload.
LARGE = 1024 * 1024
#: Bytes of a small static file.
SMALL = 13_000
#: Bytes of a file and of a generated answer for slow readers, and of a generated part.
FILE, GENERATED, PART = 5_000_000, 20_000_000, 50_000
#: Seconds that the waiting view waits.
WAIT = 0.02
#: Steps that the busy view computes: some 2 ms.
STEPS = 10_000
#: Seconds of CPU time of the burning consumer, and of sleep in a query.
BURN, SLEEP = 0.1, 0.05
