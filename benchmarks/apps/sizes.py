"""Sizes and times that the views, the bare servers and the load agree on."""

#: Bytes of a large answer and of a large upload.
LARGE = 1024 * 1024
#: Seconds that a view waits which waits.
WAIT = 0.02
#: Steps that a busy view computes, which takes some 2 ms.
STEPS = 10_000
#: Seconds that a burning consumer takes for one message, and that a query sleeps.
BURN, SLEEP = 0.1, 0.05
