"""The timer for all deadlines."""

from __future__ import annotations

import weakref
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.wheel import Wheel
from tests import examples


class Owner:
    """Something with a deadline, which notes when it is looked at."""

    def __init__(self, clock: Clock, *answers: float | None) -> None:
        self.looks: list[float] = []
        self._clock = clock
        self._answers = list(answers)

    def on_tick(self, now: float) -> float | None:
        assert now == self._clock.seconds()
        self.looks.append(now)
        return self._answers.pop(0) if self._answers else None


class WheelTests(SynchronousTestCase):
    """When the owners of deadlines are looked at."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock, 0.5)

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds / 0.125)):
            self.clock.advance(0.125)

    def test_when_due(self) -> None:
        """An owner is looked at when its deadline is over, at most one slot late, and never before."""
        for when in (0.0, 0.1, 0.5, 0.6, 3.0, 7.3):
            owner = Owner(self.clock)
            begun = self.clock.seconds()
            self.wheel.add(owner, begun + when)
            self.pass_time(10)
            (look,) = owner.looks
            self.assertGreaterEqual(look, begun + when)
            self.assertLessEqual(look, begun + when + 0.5)

    def test_sleeps(self) -> None:
        """Between two deadlines nothing happens: there is one timer at most, and none without deadlines."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for when in (100, 50, 200, 50.1):
            self.wheel.add(Owner(self.clock), when)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 50.5)
        self.pass_time(60)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 100.5)
        self.pass_time(150)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_again(self) -> None:
        """An owner that tells another time is looked at again then."""
        owner = Owner(self.clock, 5.0, 7.0, None)
        self.wheel.add(owner, 2.0)
        self.pass_time(20)
        self.assertEqual(owner.looks, [2.5, 5.5, 7.5])

    def test_asked_for_twice(self) -> None:
        """An owner that is added again is looked at at the earlier of the two times, and only then."""
        for times in ((2.0, 7.0), (7.0, 2.0), (7.0, 9.0, 2.0, 3.0)):
            owner = Owner(self.clock)
            begun = self.clock.seconds()
            for when in times:
                self.wheel.add(owner, begun + when)
            self.pass_time(12)
            self.assertEqual([look - begun for look in owner.looks], [2.5], times)

    def test_removed(self) -> None:
        """An owner that is removed is not looked at; the others of its slot are."""
        owner, other = Owner(self.clock), Owner(self.clock)
        self.wheel.add(owner, 2.0)
        self.wheel.add(other, 2.0)
        self.wheel.remove(owner)
        self.wheel.remove(owner)
        self.pass_time(5)
        self.assertEqual((owner.looks, other.looks), ([], [2.5]))
        self.wheel.remove(other)
        self.wheel.add(owner, 6.0)
        self.pass_time(5)
        self.assertEqual(owner.looks, [6.5])

    def test_nothing_stays_of_an_earlier_wish(self) -> None:
        """Who is removed and added again, or was asked for earlier, is looked at at no other time than the last."""
        removed, sooner = Owner(self.clock), Owner(self.clock)
        self.wheel.add(removed, 2.0)
        self.wheel.remove(removed)
        self.wheel.add(removed, 6.0)
        self.wheel.add(sooner, 4.0)
        self.wheel.add(sooner, 1.0)
        self.pass_time(2)
        self.wheel.add(sooner, 8.0)
        self.pass_time(10)
        self.assertEqual((removed.looks, sooner.looks), ([6.5], [1.5, 8.5]))

    def test_who_is_removed_is_let_go(self) -> None:
        """The wheel does not keep a connection that has closed until its deadline."""
        owner, other = Owner(self.clock), Owner(self.clock)
        self.wheel.add(owner, 100.0)
        self.wheel.add(other, 100.0)
        gone = weakref.ref(owner)
        self.wheel.remove(owner)
        del owner
        self.assertIsNone(gone())

    def test_an_empty_slot_wakes_nobody(self) -> None:
        """When all of a slot are removed, there is no timer for it after the next one."""
        owner = Owner(self.clock)
        self.wheel.add(Owner(self.clock), 1.0)
        self.wheel.add(owner, 5.0)
        self.wheel.remove(owner)
        self.pass_time(2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_removed_during_a_look(self) -> None:
        """Owners of one slot may remove each other: of two that do, one is looked at."""
        looked_at: list[Any] = []

        class Jealous(Owner):
            rival: Any = None

            def on_tick(inner, now: float) -> float | None:  # noqa: N805
                looked_at.append(inner)
                self.wheel.remove(inner.rival)
                return None

        first, second = Jealous(self.clock), Jealous(self.clock)
        first.rival, second.rival = second, first
        self.wheel.add(first, 1.0)
        self.wheel.add(second, 1.0)
        self.pass_time(5)
        self.assertEqual(len(looked_at), 1)
        self.wheel.add(looked_at[0].rival, 6.0)
        self.pass_time(5)
        self.assertEqual(len(looked_at), 2)

    def test_a_time_that_is_over(self) -> None:
        """A time in the past is taken as now: the owner is looked at in the next slot, not in an endless loop."""
        owner = Owner(self.clock, -5.0, 0.0, None)
        self.wheel.add(owner, -100.0)
        self.pass_time(5)
        self.assertEqual(len(owner.looks), 3)
        self.assertEqual(owner.looks, sorted(set(owner.looks)))
        self.assertLessEqual(owner.looks[-1], 2.0)

    def test_added_during_a_look(self) -> None:
        """An owner may add others, with deadlines before or after those that are there."""
        later, sooner = Owner(self.clock), Owner(self.clock)

        class Adding(Owner):
            def on_tick(inner, now: float) -> float | None:  # noqa: N805
                self.wheel.add(later, now + 10)
                self.wheel.add(sooner, now + 1)
                return super().on_tick(now)

        self.wheel.add(Adding(self.clock), 1.0)
        self.wheel.add(Owner(self.clock), 5.0)
        self.pass_time(20)
        self.assertEqual((sooner.looks, later.looks), ([3.0], [12.0]))

    def test_exception(self) -> None:
        """An owner that raises is logged and looked at again later; the others, and later deadlines, are served."""

        class Broken(Owner):
            def on_tick(self, now: float) -> float | None:
                super().on_tick(now)
                if len(self.looks) < 3:
                    raise ValueError("on purpose")
                return None

        broken, same_slot, later = Broken(self.clock), Owner(self.clock), Owner(self.clock)
        self.wheel.add(broken, 1.0)
        self.wheel.add(same_slot, 1.0)
        self.wheel.add(later, 2.0)
        self.pass_time(10)
        self.assertEqual((same_slot.looks, later.looks), ([1.5], [2.5]))
        self.assertEqual(broken.looks, [1.5, 3.0, 4.5])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_late_reactor(self) -> None:
        """If the reactor was kept busy for long, all that is due meanwhile is looked at in order of time."""
        looks: list[int] = []

        class Numbered:
            def __init__(self, number: int) -> None:
                self.number = number

            def on_tick(self, now: float) -> None:
                looks.append(self.number)

        for number in (3, 1, 2):
            self.wheel.add(Numbered(number), float(number))
        self.clock.advance(50)
        self.assertEqual(looks, [1, 2, 3])

    def test_stop(self) -> None:
        """After a stop nobody is looked at, and no timer is left."""
        owner = Owner(self.clock)
        self.wheel.add(owner, 1.0)
        self.wheel.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.pass_time(5)
        self.assertEqual(owner.looks, [])
        self.wheel.stop()
        self.wheel.add(Owner(self.clock), self.clock.seconds())
        self.pass_time(5)
        self.assertEqual(owner.looks, [])
        self.wheel.add(owner, self.clock.seconds())
        self.pass_time(1)
        self.assertEqual(len(owner.looks), 1)

    def test_now(self) -> None:
        """The wheel tells the time."""
        self.clock.advance(3)
        self.assertEqual(self.wheel.now(), 3)

    @settings(deadline=None, derandomize=True, max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 40)), max_size=20), st.floats(0, 1e6))
    def test_nobody_is_forgotten(self, deadlines: list[tuple[float, int]], begun: float) -> None:
        """Whenever deadlines are added, each is served once, in time, whatever the clock begins with."""
        clock = Clock()
        clock.advance(begun)
        wheel = Wheel(clock, 0.5)
        owners: list[tuple[Owner, float]] = []
        pending: list[Any] = sorted(deadlines, key=lambda pair: pair[1])
        for step in range(41):
            while pending and pending[0][1] == step:
                owner, when = Owner(clock), clock.seconds() + pending.pop(0)[0]
                wheel.add(owner, when)
                owners.append((owner, when))
            clock.advance(0.5)
        for _ in range(50):
            clock.advance(0.5)
        for owner, when in owners:
            self.assertEqual(len(owner.looks), 1)
            self.assertGreaterEqual(owner.looks[0], when)
            self.assertLessEqual(owner.looks[0], when + 1.001)
