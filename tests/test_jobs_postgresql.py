"""Jobs in a real PostgreSQL, and servers on several hosts."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tests.ports.postgresql import PostgreSQL, missing
from tests.process import Server, project, wait_until
from tests.test_jobs_server import SETTINGS, KillLoop

if not missing():
    import psycopg


class PostgreSQLTests(KillLoop):
    """Servers that share nothing but the database: each has a folder of its own for temporary files."""

    files = project("jobs")
    skip = missing() or None

    _database: PostgreSQL

    def setUp(self) -> None:
        self._database = PostgreSQL()
        self.addCleanup(self._database.remove)
        self.extra_settings = SETTINGS + (
            "\n    DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'postgres', "
            f"'USER': 'test', 'HOST': {str(self._database.folder)!r}}}}}\n"
        )
        super().setUp()

    def rows(self, query: str = "SELECT state, count(*) FROM channelserver_jobs_job GROUP BY state") -> dict[Any, Any]:
        with psycopg.connect(f"host={self._database.folder} user=test dbname=postgres") as connection:
            return {key: int(value) for key, value in connection.execute(query.replace('"', "'")).fetchall()}

    def host(self, name: str, *arguments: str) -> Server:
        """Start a server as if on a host of its own."""
        temporary = self.folder / name
        temporary.mkdir(exist_ok=True)
        command = self.twistd(
            "--settings", "settings", "--port", "0", "--log-format", "text", "--health-figures", "127.0.0.0/8",
            "--local-socket", str(temporary / "server.sock"), *arguments,
        )  # fmt: skip
        return self.run_process(command, TMPDIR=str(temporary)).wait_until_up()

    def test_killed_host(self) -> None:
        """Jobs of a killed host go on at another one within seconds; neither waits for a time-out."""
        first = self.host("a", "--job-threads", "2")
        second = self.host("b", "--job-threads", "2")
        for number in range(4):
            self.enqueue(first, "sleeping", f"long{number}", 2)
        wait_until(lambda: sum(key.startswith("long") for key in self.effects()) == 4, "all threads")
        first.kill()
        begins = time.monotonic()
        self.wait_until_done(4)
        self.assertLess(time.monotonic() - begins, 30)
        self.assertEqual(self.rows(), {"done": 4})
        self.assertEqual(second.get("/-/health").json()["jobs_rescued"], 2)

    def test_notified(self) -> None:
        """A job from a process without a server starts at once on any host, and a delayed one when it is due."""
        server = self.host("a")
        self.enqueue(server, "effect", "warm")
        self.wait_until_done(1)
        code = "import time; from work.tasks import effect; effect.enqueue('now'); print('stored', time.time())"
        process = self.run_process([*self.twistd()[:1], "manage.py", "shell", "-c", code])
        stored = float(process.wait_for(r"stored ([\d.]+)")[1])
        wait_until(lambda: self.effects()["now"], "the job")
        self.assertLess(time.time() - stored, 4.0)  # not at the next look, 5 s later

    def test_stopped_host(self) -> None:
        """A host that stands still is given up; its late end is refused, and counted."""
        first = self.host("a", "--job-threads", "1")
        (pk,) = self.enqueue(first, "sleeping", "job", 0.5)
        wait_until(lambda: self.effects()["job-begins"], "the job")
        os.kill(first.process.pid, signal.SIGSTOP)
        self.rows("UPDATE channelserver_jobs_jobserver SET seen = now() - interval '31 s' RETURNING id, 1")
        second = self.host("b")
        wait_until(lambda: self.effects()["job"] == 1, "the end elsewhere")
        self.wait_until_done(1)
        os.kill(first.process.pid, signal.SIGCONT)
        wait_until(lambda: first.get("/-/health").json().get("jobs_lost_lease"), "the refusal")
        result = self.result(second, pk)
        self.assertEqual((result["status"], result["attempts"]), ("SUCCESSFUL", 2))

    def test_schedules(self) -> None:
        """Two hosts that fire the same schedules at the same moment make one job for each time."""
        os.environ["TICKING"] = "1"
        self.addCleanup(os.environ.pop, "TICKING")
        for name in "ab":
            self.host(name)
        with psycopg.connect(f"host={self._database.folder} user=test dbname=postgres", autocommit=True) as connection:
            connection.execute(
                "UPDATE channelserver_jobs_schedule SET catch_up = 'all', "
                "next_at = date_trunc('minute', now() - interval '50 min')"
            )
            connection.execute("NOTIFY channelserver_jobs")
        wait_until(lambda: self.effects()["minute"] >= 51, "the times that have passed")
        times = self.rows("SELECT run_at, count(*) FROM channelserver_jobs_job GROUP BY run_at")
        self.assertEqual(set(times.values()), {1})
        self.assertGreaterEqual(len(times), 51)

    def test_kill_loop(self) -> None:
        """Two hosts, one of which is killed again and again: nothing is lost, limits hold."""
        self.host("a")
        self.kill_at_random(lambda: self.host("b"))
