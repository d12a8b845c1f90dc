"""Jobs in a real PostgreSQL, and servers on several hosts."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tests.ports.postgresql import PostgreSQL, missing
from tests.process import Server, project, wait_until
from tests.test_jobs_server import ADMIN, LISTS, SETTINGS, KillLoop

if not missing():
    import psycopg


#: Prints the plans of what servers and admin pages ask again and again that read the whole table of jobs.
PLANS = """
    import datetime, re
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from django.utils import timezone
    from channelserver.jobs import claims, ends, store
    from channelserver.jobs.models import Job, JobError

    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO channelserver_jobs_job (id, backend, queue, task, args, priority, runs_on, run_at, state,"
            " attempt, failures, deaths, owner, worker_ids, unique_key, concurrency_key, concurrency,"
            " cancel_requested, overdue, created_at, finished_at)"
            " SELECT lpad(n::text, 32, '0'), 'default', 'default', 'work.tasks.effect',"
            " '{}', 0, n % 2, now(), CASE WHEN n % 1000 = 0 THEN 'running' WHEN n % 1000 < 4 THEN 'ready'"
            " WHEN n % 1000 < 7 THEN 'waiting' WHEN n % 1000 < 500 THEN 'done' WHEN n % 1000 < 999 THEN 'dead'"
            " ELSE 'cancelled' END, 1, 0, 0, CASE WHEN n % 1000 = 0 THEN 'o' || n % 3 ELSE '' END, '', n::text, '', 0,"
            " false, false, now(),"
            " CASE WHEN n % 1000 >= 7 THEN now() - n * interval '1 min' END FROM generate_series(1, 50000) AS n"
        )
        cursor.execute("ANALYZE")
    with CaptureQueriesContext(connection) as queries:
        claims.claim("default", "me", claims.Room(4, 60, 40), None, now)
        store.promote("default", now)
        store.look("default", "me")
        ends.rescue("default", "o1", None, now)
        store.prune("default", now - datetime.timedelta(days=30), now - datetime.timedelta(days=30))
        Job.objects.filter(unique_key="77").first()
        list(Job.objects.order_by("-id")[:100])
    for query in queries.captured_queries:
        if re.match("SELECT|UPDATE|WITH", query["sql"]):
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN " + query["sql"].replace("%", "%%"), [])
                plan = "\\n".join(row[0] for row in cursor.fetchall())
            print("SLOW" if "Seq Scan on channelserver_jobs_job " in plan else "quick", query["sql"][:70], plan)
"""

#: Prints whether another connection's notification is heard that comes with the answer to a query, one that comes by
#: itself, and an own one.
NOTIFIED = """
    import select
    import psycopg
    from django.db import connection
    from channelserver.jobs.listening import Bell, PostgreSQL
    from channelserver.jobs.presence import Presence

    listening = PostgreSQL(connection, "0123456789abcdef")
    listening.prepare()
    bell = Bell(Presence(None))
    other = psycopg.connect(connection.connection.info.dsn, autocommit=True)
    heard = []
    for with_query in (True, False):
        other.execute("NOTIFY channelserver_jobs")
        select.select([listening.descriptor()], [], [], 30)
        if with_query:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        heard += [bell.wait(0, listening), bell.wait(0, listening)]
    listening.notify()
    print("heard", *heard, bell.wait(0, listening))
"""

#: Prints what three servers come upon that claim limited jobs at the same time, and what one claims while another one
#: has locked the first job that may run.
LIMITS = """
    from collections import Counter
    from concurrent.futures import ThreadPoolExecutor
    from random import Random
    import psycopg
    from django.db import connection
    from django.utils import timezone
    from channelserver.jobs import claims, store
    from channelserver.jobs.models import Job, State

    def store_jobs(keys, **values):
        Job.objects.bulk_create(Job(task="x", concurrency_key=key, **values) for key in keys)

    def serve(seed):
        random, found = Random(seed), Counter()
        for _ in range(60):
            keys = random.choices("abcdefghijkl", k=6)
            store_jobs(keys, concurrency=2, runs_on=random.choice((2, 3)), priority=random.choice((0, 1)))
            try:
                jobs = claims.claim("default", str(seed), claims.Room(2, 0, 3), None, timezone.now())
            except Exception as error:
                found[f"{type(error).__name__}: {error}"] += 1
                continue
            running = Job.objects.filter(state=State.RUNNING).values_list("concurrency_key", flat=True)
            found["over"] += max(Counter(running).values(), default=0) > 2
            found["claimed"] += bool(jobs)
            Job.objects.filter(pk__in=[job.pk for job in jobs]).update(state=State.DONE, owner="")
        connection.close()
        return found

    with ThreadPoolExecutor(3) as pool:
        found = sum(pool.map(serve, range(3)), Counter())
    print("rush", found["claimed"] > 50, found - Counter(claimed=found["claimed"]))

    Job.objects.all().delete()
    store_jobs("a", concurrency=1, runs_on=2, state=State.RUNNING)
    store_jobs("aabb", concurrency=2, runs_on=2)
    Job.objects.filter(concurrency_key="a").update(concurrency=1)
    *_, first, second = Job.objects.order_by("pk").values_list("pk", flat=True)
    with psycopg.connect(connection.connection.info.dsn) as other:
        other.execute("SELECT 1 FROM channelserver_jobs_job WHERE id = %s FOR UPDATE", [first])
        jobs = claims.claim("default", "me", claims.Room(1, 0, 0), None, timezone.now())
    print("beside a lock", [job.pk for job in jobs] == [second])
"""


class PostgreSQLTests(KillLoop):
    """Servers that share nothing but the database: each has a folder of its own for temporary files."""

    files = project("jobs") | {
        "lists.py": LISTS,
        "plans.py": PLANS,
        "notified.py": NOTIFIED,
        "limits.py": LIMITS,
        "work/urls_with_admin.py": "from django.contrib import admin\nfrom django.urls import include, path\n"
        "urlpatterns = [path('admin/', admin.site.urls), path('', include('urls'))]\n",
    }
    skip = missing() or None

    _database: PostgreSQL

    def setUp(self) -> None:
        self._database = PostgreSQL()
        self.addCleanup(self._database.remove)
        self.extra_settings = (
            SETTINGS
            + ADMIN
            + (
                "\n    ROOT_URLCONF = 'work.urls_with_admin'"
                "\n    DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'postgres', "
                f"'USER': 'test', 'HOST': {str(self._database.folder)!r}}}}}\n"
            )
        )
        super().setUp()

    def rows(self, query: str = "SELECT state, count(*) FROM channelserver_jobs_job GROUP BY state") -> dict[Any, Any]:
        with psycopg.connect(f"host={self._database.folder} user=test dbname=postgres") as connection:
            return {key: int(value) for key, value in connection.execute(query.replace('"', "'")).fetchall()}

    def host(self, name: str, *arguments: str, **environment: str) -> Server:
        """Start a server as if on a host of its own."""
        temporary = self.folder / name
        temporary.mkdir(exist_ok=True)
        command = self.twistd(
            "--settings", "settings", "--port", "0", "--log-format", "text", "--health-figures", "127.0.0.0/8",
            "--local-socket", str(temporary / "server.sock"), *arguments,
        )  # fmt: skip
        return self.run_process(command, TMPDIR=str(temporary), **environment).wait_until_up()

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

    def test_freed_place(self) -> None:
        """A place that is freed on a host with no room wakes the others."""
        self.check_freed_place(lambda: self.host("a", "--job-threads", "1"), lambda: self.host("b"))

    def test_notified_meanwhile(self) -> None:
        """A notification that comes while the claimer asks something wakes it, too; an own one does not."""
        self.assertIn("heard True False True False False", self.manage("shell", "-c", "import notified"))

    def test_schedules(self) -> None:
        """Two hosts that fire the same schedules at the same moment make one job for each time."""
        os.environ["TICKING"] = "1"
        self.addCleanup(os.environ.pop, "TICKING")
        for name in "ab":
            self.host(name)
        wait_until(lambda: self.rows("SELECT name, 1 FROM channelserver_jobs_schedule"), "the schedule")
        with psycopg.connect(f"host={self._database.folder} user=test dbname=postgres", autocommit=True) as connection:
            connection.execute(  # not "in_code": a host that is just beginning would make the row follow the code again
                "UPDATE channelserver_jobs_schedule SET catch_up = 'all', in_code = false, "
                "next_at = date_trunc('minute', now() - interval '50 min')"
            )
            connection.execute("NOTIFY channelserver_jobs")
        wait_until(lambda: self.effects()["minute"] >= 51, "the times that have passed")
        times = self.rows("SELECT run_at, count(*) FROM channelserver_jobs_job GROUP BY run_at")
        self.assertEqual(set(times.values()), {1})
        self.assertGreaterEqual(len(times), 51)

    def test_plans(self) -> None:
        """What a server asks again and again reads no table of ended jobs, as SQLite's plans in ``test_indexes``."""
        lines = [
            line for line in self.manage("shell", "-c", "import plans").splitlines() if line[:5] in ("SLOW ", "quick")
        ]
        self.assertGreater(len(lines), 8)
        self.assertEqual([line for line in lines if line.startswith("SLOW")], [])

    def test_limits(self) -> None:
        """Servers that claim limited jobs at once keep the limits, and do not wait for each other without end."""
        output = self.manage("shell", "-c", "import limits")
        self.assertIn("rush True Counter()", output)
        self.assertIn("beside a lock True", output)

    def test_lists(self) -> None:
        """The pages of the list read no more of the table than they show and count, as on SQLite."""
        self.check_lists(self.manage("shell", "-c", "import lists"), 2_000)

    def test_restarted(self) -> None:
        """While PostgreSQL is away, what runs goes on; then everything does, and the log has one line of it."""
        server = self.host("a")
        self.enqueue(server, "sleeping", "long", 2)
        wait_until(lambda: self.effects()["long-begins"], "the job")
        self._database.stop()
        wait_until(lambda: self.effects()["long"], "the end of the job")
        server.wait_for("jobs wait, for their database cannot be used")
        self._database.start()
        self.wait_until_done(1)
        code = "from work.tasks import effect; effect.enqueue('after')"
        self.manage("shell", "-c", code)
        wait_until(lambda: self.effects()["after"], "a job after it")
        self.wait_until_done(2)
        self.assertEqual((self.rows(), self.effects()["long-begins"]), ({"done": 2}, 1))
        self.assertEqual(server.output.count("jobs wait"), 1)
        self._database.stop()  # while nothing happens
        wait_until(lambda: server.output.count("jobs wait") == 2, "the line in the log")
        self._database.start()
        wait_until(lambda: "effect" in self.manage("shell", "-c", code + "; print('effect')"), "the database")
        self.wait_until_done(3)
        self.assertNotIn("Traceback", server.output)

    def test_clocks(self) -> None:
        """Servers whose clocks differ do not take each other for dead; idle ones ask once in five seconds."""
        self.count_queries("django.db.backends.postgresql")
        with open(self.folder / "settings.py", "a") as stream:
            stream.write(
                "import datetime, os\nfrom django.utils import timezone\nright = timezone.now\n"
                "late = datetime.timedelta(minutes=int(os.environ.get('MINUTES', '0')))\n"
                "timezone.now = lambda: right() + late\n"
            )
        first = self.host("a", "--job-threads", "2")
        self.enqueue(first, "sleeping", "job", 8)
        wait_until(lambda: self.effects()["job-begins"], "the job")
        second = self.host("b", MINUTES="5")
        self.wait_until_done(1)
        self.assertEqual((self.rows(), self.effects()["job-begins"]), ({"done": 1}, 1))
        self.assertEqual(second.get("/-/health").json()["jobs_running"], 0)
        self.assertLessEqual(max(self.queries_of_idle()), 2)

    def test_kill_loop(self) -> None:
        """Two hosts, one of which is killed again and again: nothing is lost, limits hold."""
        self.host("a")
        self.kill_at_random(lambda: self.host("b"))
