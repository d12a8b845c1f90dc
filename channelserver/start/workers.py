"""The workers of a process, put together: the pool of threads, the event loop, and the processes that work beside it.

Made before the reactor, in the main thread; started and stopped in the reactor thread.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections

from channelserver.asgi import ChannelLayerWrapper
from channelserver.bridge import Bridge
from channelserver.delay import keeping
from channelserver.delay.consumers import LOOK_CHANNEL
from channelserver.delay.timer import DelayTimer
from channelserver.layers.local import ORDERED_CHANNELS
from channelserver.processes.hub import Hub
from channelserver.processes.shares import WISHES
from channelserver.server.common.options import Settings
from channelserver.server.site import SWEEP_SECONDS
from channelserver.signals import worker_ready
from channelserver.start.jobs import make_claimers
from channelserver.workers import django_cleanup
from channelserver.workers.coroutines import Coroutines
from channelserver.workers.loop import event_loop
from channelserver.workers.pool import WorkerPool
from channelserver.workers.worker import Worker, may_be_coroutine

if TYPE_CHECKING:
    from channelserver.jobs.claimer import Claimer

logger = logging.getLogger("channelserver.jobs")

#: Seconds which cancelled coroutines have to end.
CANCEL_SECONDS = 1.0
#: Seconds which a claimer has to store how its jobs ended.
STORE_SECONDS = 5.0

#: Channels of the server which are served whether or not a route names them; see :meth:`Worker.consume`.
ALWAYS_SERVED = ("http.disconnect", *ORDERED_CHANNELS)


class NoWorkers:
    """Stands for a pool without threads."""

    def when_idle(self, callback: Any) -> None:
        callback()

    def _nothing(self, *_: Any) -> list[str]:
        return []

    start = stop = join = busy = leave = drain = _nothing


class Workers(WorkerPool):
    """The pool of threads that run one layer's consumers."""

    worker: Worker
    coroutines: Coroutines
    delay_timer: DelayTimer | None = None
    #: Who runs the project's jobs.
    claimers: Sequence[Claimer] = ()

    def start(self) -> None:
        super().start()
        for claimer in self.claimers:
            claimer.start()
        # Each process looks for delayed messages by itself, so looks are not fetched from elsewhere.
        self.worker.channel_layer.serve([name for name in self.channels if name != LOOK_CHANNEL], self.threads)
        if self.delay_timer is not None and LOOK_CHANNEL in self.channels:
            self.delay_timer.start()
        worker_ready.send_robust(sender=self.worker)

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Have `callback` called once, from any thread, when neither threads nor event loop have anything to do."""

        def threads_idle() -> None:
            event_loop.when_idle(lambda: super(Workers, self).when_idle(callback))

        after_jobs: Callable[[], object] = lambda: super(Workers, self).when_idle(threads_idle)  # noqa: E731
        for claimer in self.claimers:
            after_jobs = partial(claimer.when_idle, after_jobs)
        after_jobs()

    def drain(self) -> None:
        """Start no more jobs: the server stops."""
        for claimer in self.claimers:
            claimer.drain()

    def leave_jobs(self) -> None:
        """Give back the jobs that still run."""
        for claimer in self.claimers:
            claimer.leave()

    def stop(self) -> None:
        """Take no more work; cancel the coroutines, whose synchronous parts need the threads."""
        if self.delay_timer is not None:
            self.delay_timer.stop()
        event_loop.stop(CANCEL_SECONDS)
        super().stop()

    def join(self, timeout: float) -> list[str]:
        """Wait for the threads to end, then give back the jobs that have not; return a line for each unfinished job."""
        lines = list(super().join(timeout))
        for claimer in self.claimers:
            lines += claimer.stop(STORE_SECONDS)
        return lines

    def hung(self, seconds: float) -> bool:
        """Whether all threads have been on the same message for longer than `seconds` (0: that does not count), or all
        threads for jobs are lost to jobs whose time is over.
        """
        return bool(seconds and self.stalled(seconds)) or self.lost_to_jobs(0)

    def lost_to_jobs(self, seconds: float) -> bool:
        """Whether all threads for jobs have been lost for so long to jobs whose time is over."""
        times = [claimer.lost_for() for claimer in self.claimers]
        return any(time is not None and time >= seconds for time in times)

    def job_figures(self) -> dict[str, int]:
        """Return what the claimers have counted, for ``/-/health``."""
        figures: Counter[str] = Counter()
        for claimer in self.claimers:
            figures.update(claimer.figures())
        return dict(figures)


class LoopWatch:
    """Checks the event loop: each second while it runs tasks, else every few seconds."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def on_tick(self, now: float) -> float:
        event_loop.check()
        self._bridge.take_deferred()
        return now + (1.0 if len(event_loop) else SWEEP_SECONDS)


class LostWatch:
    """Stops the process when all its threads for jobs have been lost for long: a new one has new threads."""

    def __init__(self, pool: Workers, seconds: float, stop: Callable[[], object]) -> None:
        self._pool = pool
        self._seconds = seconds
        self._stop = stop

    def on_tick(self, now: float) -> float | None:
        if not self._pool.lost_to_jobs(self._seconds):
            return now + 1.0
        logger.error("stopping gracefully: %s; start this process again", WISHES[-1])
        self._stop()
        return None


class AllWorkers:
    """The threads of this process, and the processes which work beside it."""

    def __init__(self, pool: Any, hub: Hub, bridge: Bridge) -> None:
        self._pool = pool
        self._hub = hub
        self._bridge = bridge
        hub.when_taken_over = pool.leave
        self.start, self.stop, self.busy, self.drain = pool.start, pool.stop, pool.busy, pool.drain

    def when_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback`, from any thread, when neither this process nor another one has work."""

        def threads_idle() -> None:
            self._bridge.post(self._hub.when_idle, processes_idle)

        def processes_idle() -> None:
            self._pool.when_idle(callback)  # once more: what they have sent may be for the threads

        self._pool.when_idle(threads_idle)

    def join(self, timeout: float) -> list[str]:
        """Wait for the threads to end, and disconnect the processes; return a line for each unfinished job."""
        lines = self._pool.join(timeout) + self._hub.busy()
        self._hub.close()
        return list(lines)


def make_workers(
    wrapper: ChannelLayerWrapper,
    bridge: Bridge,
    values: Settings,
    thread_started: Callable[[], object] = lambda: None,
    channels: Sequence[str] | None = None,
) -> Any:
    """Return the worker threads for a layer's consumers.

    :param thread_started: called at the start of each thread, in it.
    :param channels: which to serve; default: all that have a route.
    """
    queues = wrapper.queues
    queues.chains.unordered |= wrapper.router.unordered
    wrapper.channel_layer.requeued = wrapper.router.requeued(values.requeue)
    if not values.threads:
        return NoWorkers()
    django_cleanup.keep_caches()
    worker = Worker(wrapper, queues, bridge.call_later, values.auto_accept, values.reject_unrouted)
    pool = Workers(
        queues,
        sorted({*wrapper.router.channels, *ALWAYS_SERVED}) if channels is None else channels,
        worker.consume,
        values.threads,
        bridge.call_later,
        connections.close_all,
        thread_started,
        bridge.turn_began,
        values.max_streams,
        bridge.at_end_of_turn,
        bridge.expect_replies,
        bridge.flush,
    )
    pool.worker = worker
    bridge.before_waiting = pool.held_up
    coroutines = Coroutines(worker, pool, event_loop, bridge.at_end_of_turn)
    pool.coroutines = coroutines
    worker.start_coroutine = coroutines.start
    if any(map(may_be_coroutine, wrapper.router.consumers())):
        pool.when_stuck = coroutines.look_soon
    bridge.loop = event_loop
    pool.claimers = make_claimers(values.threads, values.job_threads, bridge.call_later, pool.context.copy)
    if wrapper.delays is not None and keeping.keeper is None:
        pool.delay_timer = wrapper.delays.make_timer(queues, bridge.call_later)
    return pool
