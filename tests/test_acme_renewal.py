"""When certificates are renewed, and failed orders tried again."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.acme.renewal import PAUSES, Window, next_try, renewal

DAY = 86_400.0


class RenewalTests(SynchronousTestCase):
    """The pure function of certificate, window and clock."""

    def test_without_a_window(self) -> None:
        """2/3 of the lifetime, or half of it if that is under 10 days; ± 1/50, the same each time."""
        for lifetime, share in ((90 * DAY, 2 / 3), (45 * DAY, 2 / 3), (160 * 3600, 1 / 2), (600.0, 1 / 2)):
            times = {renewal(f"aki.{number}", 1000.0, 1000.0 + lifetime, 1000.0)[0] for number in range(200)}
            self.assertGreater(len(times), 10)
            for when in times:
                self.assertLessEqual(abs(when - 1000.0 - share * lifetime), lifetime / 50 + 1e-6)
        self.assertEqual(renewal("a.b", 0.0, DAY, 0.0), renewal("a.b", 0.0, DAY, 0.0))

    def test_window(self) -> None:
        """The moment in the window counts, if it is for this certificate."""
        window = Window("a.1", 20 * DAY, 22 * DAY, 21 * DAY)
        self.assertEqual(renewal("a.1", 0.0, 90 * DAY, 0.0, window)[0], 21 * DAY)
        self.assertGreater(renewal("a.2", 0.0, 90 * DAY, 0.0, window)[0], 50 * DAY)

    def test_late_window(self) -> None:
        """A window that is too late counts no more when 1/20 of the lifetime is left."""
        when, why = renewal("a.1", 0.0, 90 * DAY, 0.0, Window("a.1", 200 * DAY, 201 * DAY, 200 * DAY))
        self.assertEqual(when, 90 * DAY * 19 / 20)
        self.assertIn("1/20", why)

    def test_past_window(self) -> None:
        """A window in the past renews, but never twice in 1/10 of the lifetime."""
        window = Window("a.1", 0.0, 1.0, 0.5)
        self.assertEqual(renewal("a.1", 0.0, 90 * DAY, 40 * DAY, window)[0], 49 * DAY)
        self.assertEqual(renewal("a.1", 0.0, 90 * DAY, 0.0, window)[0], 9 * DAY)

    @settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.floats(60, 400 * DAY),
        st.floats(0, 1),
        st.one_of(st.none(), st.floats(-1e9, 2e9)),
        st.integers(0, 10**9).map(str),
    )
    def test_always_in_time(self, lifetime: float, obtained: float, chosen: float | None, serial: str) -> None:
        """Whatever a window says, a certificate is renewed before it expires, and never soon after it has come."""
        window = None if chosen is None else Window(serial, chosen, chosen, chosen)
        when, _ = renewal(serial, 1e9, 1e9 + lifetime, 1e9 + obtained * lifetime, window)
        self.assertLessEqual(when, 1e9 + lifetime * max(0.951, 0.101 + obtained) + 1)
        self.assertGreaterEqual(when, 1e9 + lifetime * (0.1 + obtained) - 1)


class PauseTests(SynchronousTestCase):
    """The pauses between two tries."""

    def test_pauses(self) -> None:
        """They grow from a minute to 6 hours; what the authority asks for is kept to exactly."""
        self.assertEqual([next_try(number) for number in (1, 2, 3, 4, 5)], [60, 120, 120, 300, 600])
        self.assertEqual(list(PAUSES), sorted(PAUSES))
        self.assertEqual(next_try(1000), 6 * 3600)
        self.assertEqual([next_try(9, pause) for pause in (61.0, 7 * DAY)], [61.0, 7 * DAY])
        self.assertEqual([next_try(number, 1.0) for number in (-9, 0, 1, 5)], [60, 60, 60, 600])  # no loop of seconds
        # 5 failed validations per name and hour are allowed: never more than that, in any hour after the first minutes.
        times = [sum(PAUSES[:number]) for number in range(len(PAUSES))]
        self.assertLessEqual(sum(600 <= when < 4200 for when in times), 5)
