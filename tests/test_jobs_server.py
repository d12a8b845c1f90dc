"""Jobs on real servers: killed, stopped, several at once, with real databases."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from shutil import rmtree
from typing import Any

import requests

from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until

#: Kills in the loops that kill servers: the long form takes minutes.
KILLS = int(os.environ.get("CHANNELSERVER_TEST_KILLS", "10"))

SETTINGS = """
    INSTALLED_APPS += ["channelserver.jobs", "work"]
    MIGRATION_MODULES = {"work": None}
    TASKS = {"default": {"BACKEND": "channelserver.jobs.JobBackend", "QUEUES": []}}
"""


ADMIN = """
    INSTALLED_APPS += ["django.contrib.admin", "django.contrib.messages"]
    MIDDLEWARE += [
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    TEMPLATES = [{
        "BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        }
    }]
"""

#: Opens pages of the list of 30 000 jobs; prints for each the status, the number of queries, and how much the database
#: does for it: on SQLite steps of its virtual machine, on PostgreSQL rows that it looks at. In the order of their
#: identifiers the jobs are running, then done, dead, waiting, ready, and cancelled, so that none of the others is among
#: the latest 5000. Counts end at 500.
LISTS = """
    import json
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext
    from channelserver.jobs import admin

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO channelserver_jobs_job (id, backend, queue, task, args, priority, runs_on, run_at, state,"
            " attempt, failures, deaths, owner, worker_ids, concurrency_key, concurrency, cancel_requested, overdue,"
            " created_at, finished_at) WITH RECURSIVE numbers(i) AS"
            " (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i < 29999) SELECT"
            " substr('00000000000000000000000000' || (100000 + i), 1, 32), 'default', 'default', 'work.tasks.t',"
            " '{}', i % 3, i % 2, CURRENT_TIMESTAMP, CASE WHEN i < 10 THEN 'running' WHEN i < 10000 THEN 'done'"
            " WHEN i < 15000 THEN 'dead' WHEN i < 20000 THEN 'waiting' WHEN i < 25000 THEN 'ready' ELSE 'cancelled'"
            " END, 1, 0, 0, CASE WHEN i < 10 THEN 'o' ELSE '' END, '', '', 0, FALSE, FALSE, CURRENT_TIMESTAMP,"
            " CASE WHEN i < 10 OR i >= 15000 AND i < 25000 THEN NULL ELSE CURRENT_TIMESTAMP END FROM numbers"
        )
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE")
    admin.MOST_COUNTED = 500
    client = Client(HTTP_HOST="localhost")
    client.force_login(User.objects.create_superuser("root"))
    steps = 0

    def step():
        global steps
        steps += 100

    def rows(plan):
        looked = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if "Scan" in plan["Node Type"] else 0
        return looked * plan["Actual Loops"] + sum(map(rows, plan.get("Plans", [])))

    def open_page(query):
        global steps
        steps = 0
        if connection.vendor == "sqlite":
            connection.connection.set_progress_handler(step, 100)
        with CaptureQueriesContext(connection) as queries:
            answer = client.get("/admin/channelserver_jobs/job/" + query)
        work = steps
        if connection.vendor == "postgresql":
            for found in queries.captured_queries:
                with connection.cursor() as cursor:
                    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + found["sql"].replace("%", "%%"), [])
                    plan = cursor.fetchone()[0]
                    work += rows((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        shown = answer.content.count(b'class="action-select"')
        print("page", query or "?", answer.status_code, len(queries), shown, round(work))

    pages = ["", "?all=", "?p=5", "?o=8", "?o=8&p=5", "?_facets=", "?q=no", "?q=00000000000000000000000000100001"]
    for state in ("running", "done", "dead", "waiting", "ready", "cancelled"):
        pages += [f"?state__exact={state}{more}" for more in ("", "&p=5", "&o=8", "&o=-3", "&q=no", "&_facets=")]
    for page in pages:
        open_page(page)
"""


class JobsTestCase(ServerTestCase):
    """A project with jobs."""

    files = project("jobs")
    extra_settings = SETTINGS

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "effects.txt").touch()
        self.make_tables("--run-syncdb")

    def effects(self) -> Counter[str]:
        """How often each thing has happened."""
        lines = (self.folder / "effects.txt").read_text().splitlines()
        return Counter(line.split()[0] for line in lines if line.endswith(tuple("0123456789")))

    def enqueue(self, server: Server, name: str, *args: Any, n: int = 1) -> list[str]:
        """Enqueue through a view; return the identifiers."""
        text = "[" + ",".join(f'"{arg}"' if isinstance(arg, str) else str(arg) for arg in args) + "]"
        ids: list[str] = server.get(f"/enqueue/{name}", params={"args": text, "n": n}).json()["ids"]
        return ids

    def result(self, server: Server, pk: str) -> dict[str, Any]:
        found: dict[str, Any] = server.get(f"/result/{pk}").json()
        return found

    def count_queries(self, engine: str) -> None:
        """Have each process count its queries."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write('\nDATABASES["default"]["ENGINE"] = "counting"\n')
        self.write({
            "counting/__init__.py": "",
            "counting/base.py": f"""
                import os
                from {engine} import base

                class DatabaseWrapper(base.DatabaseWrapper):
                    def create_cursor(self, name=None):
                        with open(f"queries-{{os.getpid()}}.txt", "a") as stream:
                            stream.write("query\\n")
                        return super().create_cursor(name)
            """,
        })  # fmt: skip

    def queries_of_idle(self) -> list[int]:
        """Return how many queries each process makes in 9 s in which nothing happens."""

        def count() -> Counter[str]:
            return Counter({path.name: path.stat().st_size // 6 for path in self.folder.glob("queries-*.txt")})

        before = Counter({"": -1})
        while before != (before := count()):
            time.sleep(1.5)  # for what belongs to the last job
        time.sleep(9)
        return sorted((count() - before).values())

    def check_lists(self, output: str, most: int) -> None:
        """Check what :data:`LISTS` prints.

        :param most: how much the database may do for a page.
        """
        pages = [line.split()[1:] for line in output.splitlines() if line.startswith("page ")]
        self.assertEqual(len(pages), 44)
        for query, status, queries, shown, work in pages:
            expected = 0 if "q=no" in query else 1 if "q=" in query else 10 if "running" in query else 100
            self.assertEqual((status, shown), ("200", str(expected)), query)
            self.assertLessEqual(int(queries), 4, query)
            self.assertLessEqual(int(work), most, query)

    def check_freed_place(self, start: Callable[[], Server], start_other: Callable[[], object]) -> None:
        """A process frees a place, and has no thread for the job that may run now: another process takes it.

        :param start: starts a server with one thread for jobs.
        :param start_other: starts another process.
        """
        os.environ["NEVER_LOOKING"] = "1"
        self.addCleanup(os.environ.pop, "NEVER_LOOKING")
        server = start()
        self.enqueue(server, "sleeping", "long", 600)
        self.enqueue(server, "holding", "held")
        wait_until(lambda: self.effects()["long-begins"] + self.effects()["held-begins"] == 2, "both jobs")
        start_other()
        self.enqueue(server, "effect", "there")
        wait_until(lambda: self.effects()["there"], "the other process")
        self.enqueue(server, "single", "next")
        self.enqueue(server, "effect", "after")
        wait_until(lambda: self.effects()["after"], "the job that the other process takes, as it cannot take the next")
        self.assertEqual(self.effects()["next"], 0)
        (self.folder / "enough").touch()
        wait_until(lambda: self.effects()["next"], "the job for which there is a place now")

    def rows(self, query: str = "SELECT state, count(*) FROM channelserver_jobs_job GROUP BY state") -> dict[Any, Any]:
        """Ask the database without Django."""
        connection = sqlite3.connect(self.folder / "db.sqlite3", timeout=30)
        try:
            return dict(connection.execute(query).fetchall())
        finally:
            connection.close()

    def wait_until_done(self, total: int) -> None:
        def ended() -> bool:
            rows = self.rows()
            return rows.get("ready", 0) + rows.get("running", 0) + rows.get("waiting", 0) == 0 and (
                sum(rows.values()) >= total
            )

        wait_until(ended, "the end of all jobs")


class KillLoop(JobsTestCase):
    """Servers are killed at random moments, while another process enqueues."""

    #: What that process enqueues, again and again.
    names = ("effect", "row", "two", "short")

    def kill_at_random(self, start: Callable[[], Server] | None = None) -> None:
        """Kill and start a server again and again, and check that nothing is lost.

        :param start: starts a server.
        """
        start = start or self.start
        code = (
            "import os, time\nfrom work import tasks\nn = 0\nwhile not os.path.exists('enough'):\n"
            f"    for name in {self.names}: getattr(tasks, name).enqueue(f'{{name}}{{n}}')\n"
            "    n += 1\n    time.sleep(0.05)\nprint('enqueued', n)\n"
        )
        enqueuer = self.run_process([*self.twistd()[:1], "manage.py", "shell", "-c", code])
        chance = random.Random(7)
        server = start()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 0.4))
            server.kill()
            server = start()
        (self.folder / "enough").touch()
        count = int(enqueuer.wait_for(r"enqueued (\d+)")[1])
        self.wait_until_done(count * len(self.names))
        every = {f"{name}{number}" for name in self.names for number in range(count)}
        # One that was under way at three deaths is listed as dead; here, by chance.
        dead = {json.loads(args)["args"][0] for args in self.rows(
            "SELECT CAST(args AS text), 1 FROM channelserver_jobs_job WHERE state = 'dead' AND deaths = 3"
        )}  # fmt: skip
        self.assertEqual(self.rows(), {"done": len(every) - len(dead)} | ({"dead": len(dead)} if dead else {}))
        effects = self.effects()
        self.assertEqual(effects["third"], 0)
        keys = {key for key in every if not key.startswith("row")}
        self.assertEqual(keys - set(effects), set())
        again = self.rows("SELECT 'again', sum(attempt - 1) FROM channelserver_jobs_job")["again"]
        self.assertLessEqual(sum(effects[key] - 1 for key in keys), again)
        found = self.rows("SELECT key, count(*) FROM work_effect GROUP BY key")
        self.assertEqual(found, dict.fromkeys(every - keys - dead, 1))
        print(f"{KILLS} kills: {len(every)} jobs, {again} run again, {len(dead)} listed as dead")


class OneServerTests(JobsTestCase):
    """One server process."""

    def test_ways(self) -> None:
        """Jobs come from a view and another process, run in threads and on the loop, and fail; results say so."""
        server = self.start()
        ids = {name: self.enqueue(server, name, name, *more)[0] for name, more in (
            ("effect", ()), ("waiting", (0.01,)), ("failing", ()), ("late", ()), ("looping", ()), ("first_time", ()),
            ("remembering", ()),
        )}  # fmt: skip
        self.manage("shell", "-c", "from work.tasks import effect; effect.enqueue('shell')")
        wait_until(lambda: self.effects()["shell"], "the job of another process")
        self.wait_until_done(len(ids) + 1)
        found = {name: self.result(server, pk) for name, pk in ids.items()}
        self.assertEqual(
            {name: (result["status"], result["attempts"]) for name, result in found.items()},
            {
                "effect": ("SUCCESSFUL", 1), "waiting": ("SUCCESSFUL", 1), "failing": ("FAILED", 3),
                "late": ("FAILED", 1), "looping": ("SUCCESSFUL", 1), "first_time": ("FAILED", 3),
                "remembering": ("SUCCESSFUL", 2),
            },
        )  # fmt: skip
        tries = [float(line) for line in (self.folder / "tries.txt").read_text().splitlines()]
        first, second, third = tries
        self.assertGreaterEqual(second - first, 0.3)
        self.assertGreaterEqual(third - second, 0.6)
        self.assertEqual(found["failing"]["errors"], ["builtins.ValueError"] * 3)
        self.assertEqual((len(found["failing"]["workers"]), len(set(found["failing"]["workers"]))), (3, 1))
        self.assertEqual((self.effects()["first_time-once"], self.effects()["remembering-1"]), (1, 1))
        self.assertEqual(found["late"]["errors"], ["builtins.TimeoutError"])
        self.assertRegex(server.output, "is overdue")
        figures = server.get("/-/health").json()
        self.assertEqual((figures["jobs_dead"], figures["jobs_overdue"], figures["jobs_running"]), (2, 1, 0))

    def test_lost_threads(self) -> None:
        """While all threads for jobs are in jobs whose time is over, the health check says so."""
        server = self.start("--job-threads", "1")
        server.wait_for(r"1 for jobs, so at most \d+ connections")
        self.enqueue(server, "stubborn", "late", 1.5)
        wait_until(lambda: server.get("/-/health").status_code == 503, "the lost thread")
        wait_until(lambda: self.effects()["late"], "the end of the job")
        wait_until(lambda: server.get("/-/health").status_code == 200, "the thread")

    def test_lost_for_long(self) -> None:
        """If they stay so, the server stops, and the job has failed: it must not take the next server's threads."""
        server = self.start("--job-threads", "1", "--hang-timeout", "0.5", "--drain-timeout", "0.5")
        self.enqueue(server, "stubborn", "late", 600)
        self.assertEqual(server.wait(), 0)
        self.assertRegex(server.output, "stopping gracefully: all threads for jobs are lost to overdue jobs")
        self.assertEqual(self.rows("SELECT state, failures FROM channelserver_jobs_job"), {"waiting": 1})

    def test_transactions(self) -> None:
        """A job never starts before the commit of its transaction, and not at all if there is none."""
        server = self.start()
        for number in range(10):
            server.get(f"/transaction/key{number}")
            server.get(f"/transaction/back{number}?back")
        self.wait_until_done(1000)
        self.assertEqual(self.effects(), Counter({f"key{number}-{n}-1": 1 for number in range(10) for n in range(100)}))

    def test_durable(self) -> None:
        """A durable message is consumed until its consumer ends normally."""
        server = self.start()
        server.get("/durable/message")
        wait_until(lambda: self.effects()["message"] == 1, "the first try")
        wait_until(lambda: self.rows().get("waiting"), "the pause")
        self.manage("jobs", "retry", "--task", "channel:durable")
        wait_until(lambda: self.effects()["message"] == 2, "the second try")
        self.wait_until_done(1)

    def test_killed(self) -> None:
        """A killed server's jobs run again within a second of the next start, and are none the worse for it."""
        server = self.start()
        (pk,) = self.enqueue(server, "sleeping", "long", 1)
        wait_until(lambda: self.effects()["long-begins"], "the job")
        server.kill()
        server = self.start()
        begins = time.monotonic()
        wait_until(lambda: self.effects()["long-begins"] == 2, "the second try")
        self.assertLess(time.monotonic() - begins, TIMEOUT / 4)  # not after a time-out of minutes
        self.wait_until_done(1)
        result = self.result(server, pk)
        self.assertEqual((result["status"], result["attempts"], len(set(result["workers"]))), ("SUCCESSFUL", 2, 2))

    def test_poison(self) -> None:
        """A job that ends its process three times is dead; the others run."""
        server = self.start("--job-threads", "1")
        with contextlib.suppress(requests.ConnectionError):  # the job may end the process before the answer is sent
            self.enqueue(server, "poison", "poison")
        for _ in range(3):
            server.wait()
            server = self.start("--job-threads", "1")
        self.enqueue(server, "effect", "other")
        self.wait_until_done(2)
        self.assertEqual((self.rows(), self.effects()["poison"]), ({"dead": 1, "done": 1}, 3))

    def test_stop(self) -> None:
        """Jobs take no thread of views and sockets. A server that stops lets short jobs end, and gives long ones back
        without spending a try.
        """
        server = self.start("--drain-timeout", "1", "--threads", "1", "--job-threads", "8")
        for number in range(3):
            self.enqueue(server, "sleeping", f"short{number}", 0.3)
            self.enqueue(server, "sleeping", f"long{number}", 300)
            self.enqueue(server, "waiting", f"loop{number}", 300)
        wait_until(lambda: sum(key.endswith("-begins") for key in self.effects()) == 9, "all jobs")
        with server.connect("/") as socket:
            socket.send("still there?")
            self.assertEqual(socket.recv(TIMEOUT), "still there?")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.rows(), {"done": 3, "ready": 6})
        self.assertEqual(
            self.rows("SELECT 'tries', max(attempt) FROM channelserver_jobs_job WHERE state='ready'"), {"tries": 0}
        )

    def test_unknown_claim(self) -> None:
        """A job that the table gives to a server which does not run it, as in an older copy of the database, is run.
        So it is when somebody has removed the folder of the locks.
        """
        server = self.start()
        self.enqueue(server, "effect", "job")
        self.wait_until_done(1)
        rmtree(self.folder / "db.sqlite3-jobs")
        connection = sqlite3.connect(self.folder / "db.sqlite3", timeout=30, isolation_level=None)
        connection.execute("UPDATE channelserver_jobs_job SET state = 'running', owner = trim(worker_ids)")
        connection.close()
        wait_until(lambda: self.effects()["job"] == 2, "the second run")
        self.wait_until_done(1)
        self.assertEqual(self.rows("SELECT state, attempt FROM channelserver_jobs_job"), {"done": 1})
        self.assertIn("1 job(s) that this process had taken without knowing it", server.output)
        self.assertIn("the folder for locks was removed", server.output)
        self.assertNotIn("Traceback", server.output)

    def test_locked(self) -> None:
        """While another program locks the database, jobs wait; nothing is lost, and the log is short."""
        server = self.start()
        self.enqueue(server, "sleeping", "first", 0.5)
        wait_until(lambda: self.effects()["first-begins"], "the job")
        connection = sqlite3.connect(self.folder / "db.sqlite3", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        wait_until(lambda: self.effects()["first"], "the end of the job")
        time.sleep(float(os.environ.get("CHANNELSERVER_TEST_LOCKED", "1")))
        connection.execute("COMMIT")
        connection.close()
        self.enqueue(server, "effect", "second")
        self.wait_until_done(2)
        self.assertEqual(self.rows(), {"done": 2})
        self.assertNotIn("Traceback", server.output)


class DelayedTests(JobsTestCase):
    """Delayed messages are jobs in a project that has jobs."""

    extra_settings = (
        SETTINGS
        + """
    INSTALLED_APPS += ["channelserver.delay"]
    """
    )

    def send(self, call: str) -> None:
        self.manage("shell", "-c", f"from channelserver import Channel; {call}")

    def test_there(self) -> None:
        """``migrate`` moves what waits; ``asgi.delay`` is as in Channels 1; a message outlives its server."""
        connection = sqlite3.connect(self.folder / "db.sqlite3")
        connection.execute(
            "INSERT INTO channelserver_delay_delayedmessage "
            "(due_date, layer, channel_name, to_group, content, problem) "
            "VALUES ('2026-01-01 10:00:00', 'default', 'noted', 0, '{\"key\": \"old\"}', '')"
        )
        connection.commit()
        connection.close()
        self.manage("migrate", "--verbosity", "0")
        self.assertEqual(self.rows("SELECT task, 1 FROM channelserver_jobs_job"), {"delayed:noted": 1})
        self.assertEqual(self.rows("SELECT 'left', count(*) FROM channelserver_delay_delayedmessage"), {"left": 0})
        server = self.start()
        wait_until(lambda: self.effects()["old"], "the old message")
        self.send("Channel('asgi.delay').send({'channel': 'noted', 'delay': 10, 'content': {'key': 'new'}})")
        wait_until(lambda: self.effects()["new"], "the message of Channels 1")
        self.send("Channel('noted').send({'key': 'late'}, delay=3600)")
        server.kill()
        self.start()
        self.assertEqual(self.rows(), {"waiting": 1})
        self.manage("jobs", "retry", "--task", "delayed:noted")
        wait_until(lambda: self.effects()["late"], "the last message")
        wait_until(lambda: not self.rows(), "the end of its row")
        self.assertEqual(self.effects(), Counter({"old": 1, "new": 1, "late": 1}))


class AdminTests(JobsTestCase):
    """The admin pages."""

    files = project("jobs") | {
        "admin_urls.py": "from django.contrib import admin\nfrom django.urls import path\n"
        "urlpatterns = [path('admin/', admin.site.urls)]\n",
        "lists.py": LISTS,
        "acts.py": """
        from django.contrib.auth.models import Permission, User
        from django.test import Client
        from channelserver.jobs.models import Job, JobError, Schedule
        from work.tasks import effect

        pages = "/admin/channelserver_jobs/"
        dead = effect.enqueue("a").id
        Job.objects.update(state="dead", attempt=1)

        def client(*names, **more):
            user = User.objects.create_user(f"u{User.objects.count()}", is_staff=True, **more)
            user.user_permissions.set(Permission.objects.filter(codename__in=names))
            found = Client(HTTP_HOST="localhost")
            found.force_login(user)
            return found

        def act(client, action):
            client.post(pages + "job/", {"action": action, "_selected_action": [dead]})
            return Job.objects.get().state

        viewer, manager, root = client("view_job"), client("view_job", "manage_job"), client(is_superuser=True)
        print([client().get(pages + "job/").status_code, viewer.get(pages + "job/?state__exact=dead").status_code])
        print([b"Run again" in user.get(pages + "job/").content for user in (viewer, manager)])
        print([viewer.get(f"{pages}job/{dead}/change/").status_code, viewer.get(pages + "job/add/").status_code])
        JobError.objects.create(job_id=dead, attempt=1, exception_class="a.B", traceback="File <x>\\n    raise B")
        page = viewer.get(f"{pages}job/{dead}/change/").content.decode()
        print(["File &lt;x&gt;\\n    raise B</pre>" in page, "a.B at attempt 1" in page])
        print([act(viewer, "run_again"), act(manager, "run_again"), act(manager, "cancel"), act(manager, "run_again")])
        for name in ("schedule", "jobqueue", "jobserver", "job"):
            print([root.get(f"{pages}{name}/").status_code, root.get(f"{pages}{name}/add/").status_code])
        form = {"name": "n", "task": "work.tasks.effect", "tz": "Europe/Vienna", "catch_up": "last", "enabled": "on"}
        strict = Client(HTTP_HOST="localhost", enforce_csrf_checks=True)
        strict.force_login(User.objects.get(is_superuser=True))
        print([strict.post(pages + "job/").status_code, root.get(pages + "job/?o=-7").status_code])
        for values in (
            {"cron": "* * * * *", "task": "work.nothing"}, {"cron": "61 * * * *"},
            {"cron": "* * * * *", "tz": "Mars/Olympus"}, {"cron": "1 * * * *"},
        ):
            answer = root.post(pages + "schedule/add/", form | values)
            print([answer.status_code, Schedule.objects.count()])
    """,
    }
    extra_settings = SETTINGS + ADMIN + '    ROOT_URLCONF = "admin_urls"\n'

    def test_permissions(self) -> None:
        """Who may look at jobs may not yet run them again; a schedule that cannot be is an error of the form."""
        self.assertEqual(self.manage("shell", "-c", "import acts").splitlines()[-14:], [
            "[403, 200]", "[False, True]", "[200, 403]", "[True, True]", "['dead', 'ready', 'cancelled', 'ready']",
            "[200, 200]", "[200, 200]", "[200, 403]", "[200, 403]",
            "[403, 200]", "[200, 0]", "[200, 0]", "[200, 0]", "[302, 1]",
        ])  # fmt: skip

    def test_lists(self) -> None:
        """No page of the list, its filters and its search reads more of the table than it shows and counts."""
        self.check_lists(self.manage("shell", "-c", "import lists"), 20_000)


class ManyTests(KillLoop):
    """Kills, and several processes."""

    def test_kill_loop(self) -> None:
        """Whatever is killed: each committed job runs, those with ``atomic=True`` exactly once."""
        self.kill_at_random()

    def test_processes(self) -> None:
        """Several processes share the jobs; limits hold for all together; a killed one's jobs go on elsewhere."""
        server = self.start("--processes", "2", "--job-threads", "3")
        self.enqueue(server, "two", "limited", n=100)
        for number in range(20):
            self.enqueue(server, "sleeping", f"s{number}", 0.1)
        self.wait_until_done(120)
        self.assertEqual((self.effects()["limited"], self.effects()["third"]), (100, 0))
        lines = (self.folder / "effects.txt").read_text().splitlines()
        pids = {line.split()[1] for line in lines}
        self.assertEqual(len(pids), 2)
        sibling = int(next(pid for pid in pids if int(pid) != server.process.pid))
        for number in range(6):
            self.enqueue(server, "sleeping", f"long{number}", 2)
        wait_until(lambda: sum(key.startswith("long") for key in self.effects()) == 6, "all threads")
        os.kill(sibling, signal.SIGKILL)
        self.wait_until_done(126)
        self.assertEqual(self.rows(), {"done": 126})

    def test_idle(self) -> None:
        """All idle processes of a machine together ask the database no more than once in five seconds."""
        self.count_queries("django.db.backends.sqlite3")
        server = self.start("--processes", "2")
        self.run_process([*self.twistd()[:1], "manage.py", "runworker"]).wait_for("worker process")
        self.enqueue(server, "effect", "a")
        self.wait_until_done(1)
        found = self.queries_of_idle()
        self.assertLessEqual(sum(found), 2)
        self.assertGreaterEqual(len(list(self.folder.glob("queries-*.txt"))), 3)

    def test_woken(self) -> None:
        """A shell or a cron process wakes the server at the commit: it need not look by itself."""
        os.environ["NEVER_LOOKING"] = "1"
        self.addCleanup(os.environ.pop, "NEVER_LOOKING")
        server = self.start("--job-threads", "1")
        self.enqueue(server, "effect", "view")
        code = (
            "import datetime, time\nfrom django.db import transaction\nfrom django.utils import timezone\n"
            "from work.tasks import effect\n"
            "def run(key, **options):\n    result = effect.using(**options).enqueue(key)\n"
            "    while options and not result.is_finished: time.sleep(0.005); result.refresh()\n"
            "for number in range(10): run(f'shell{number}', priority=1)\n"
            "run('late', run_after=timezone.now() + datetime.timedelta(seconds=0.3))\n"
            "with transaction.atomic(): run('cron')\n"
        )
        self.manage("shell", "-c", code)
        wait_until(lambda: self.effects()["cron"], "the job of a process that has ended")
        self.enqueue(server, "sleeping", "long", 600)
        wait_until(lambda: self.effects()["long-begins"], "the job that takes the only thread")
        self.run_process([*self.twistd()[:1], "manage.py", "runworker"]).wait_for("worker process")
        self.enqueue(server, "effect", "other")
        wait_until(lambda: self.effects()["other"], "the job that another process takes")

    def test_limited(self) -> None:
        """When all jobs of a limited task have ended, the next ones begin at once; nobody has to look."""
        os.environ["NEVER_LOOKING"] = "1"
        self.addCleanup(os.environ.pop, "NEVER_LOOKING")
        self.enqueue(self.start("--job-threads", "3"), "two", "limited", n=40)
        self.wait_until_done(40)
        self.assertEqual((self.effects()["limited"], self.effects()["third"]), (40, 0))

    def test_full_loop(self) -> None:
        """Coroutines at their limit hold back no job for a thread; nobody has to look."""
        os.environ["NEVER_LOOKING"] = "1"
        self.addCleanup(os.environ.pop, "NEVER_LOOKING")
        server = self.start("--job-threads", "1")
        self.enqueue(server, "waiting", "loop", 600, n=11)
        wait_until(lambda: self.effects()["loop-begins"] == 10, "the coroutines")
        self.enqueue(server, "effect", "thread", n=3)
        wait_until(lambda: self.effects()["thread"] == 3, "the jobs of the thread")
        self.assertEqual(self.effects()["loop-begins"], 10)

    def test_full_threads(self) -> None:
        """Jobs that wait for a thread hold back no coroutine, however many they are."""
        os.environ["NEVER_LOOKING"] = "1"
        self.addCleanup(os.environ.pop, "NEVER_LOOKING")
        server = self.start("--job-threads", "1")
        self.enqueue(server, "sleeping", "thread", 600, n=30)
        wait_until(lambda: self.effects()["thread-begins"], "the job of the thread")
        self.enqueue(server, "waiting", "loop", 0, n=11)
        wait_until(lambda: self.effects()["loop"] == 11, "the coroutines")
        self.assertEqual(self.effects()["thread-begins"], 1)

    def test_freed_place(self) -> None:
        """A place that is freed in a process with no room wakes the others; nobody has to look."""
        self.check_freed_place(
            lambda: self.start("--job-threads", "1"),
            lambda: self.run_process([*self.twistd()[:1], "manage.py", "runworker"]).wait_for("worker process"),
        )

    def test_backlog(self) -> None:
        """Full processes, for which jobs wait, look once in five seconds: they do not wake each other."""
        self.count_queries("django.db.backends.sqlite3")
        server = self.start("--processes", "2", "--job-threads", "1")
        self.enqueue(server, "sleeping", "long", 600, n=6)
        wait_until(lambda: self.effects()["long-begins"] == 2, "both threads")
        before = sum(path.stat().st_size for path in self.folder.glob("queries-*.txt"))
        time.sleep(8)
        after = sum(path.stat().st_size for path in self.folder.glob("queries-*.txt"))
        # A look is six queries; two or three looks each, not hundreds.
        self.assertLess((after - before) // len("query\n"), 60)

    def test_lost_in_worker(self) -> None:
        """A worker process whose threads for jobs are all lost for long stops, too; one gives its jobs back."""
        server = self.start("--job-threads", "0")
        self.enqueue(server, "stubborn", "late", 600)
        limits = {"CHANNELSERVER_DRAIN_TIMEOUT": "0.5", "CHANNELSERVER_JOB_THREADS": "1"}
        command = [*self.twistd()[:1], "manage.py", "runworker"]
        worker = self.run_process(command, CHANNELSERVER_HANG_TIMEOUT="0.5", **limits)
        self.assertEqual(worker.wait(), 0)
        self.assertRegex(worker.output, "stopping gracefully: all threads for jobs are lost to overdue jobs")
        self.assertEqual(self.rows("SELECT state, failures FROM channelserver_jobs_job"), {"waiting": 1})
        self.enqueue(server, "sleeping", "long", 600)
        worker = self.run_process(command, **limits)
        wait_until(lambda: self.effects()["long-begins"], "the long job")
        self.assertEqual(worker.stop(signal.SIGTERM), 0)
        self.assertEqual(self.rows(), {"waiting": 1, "ready": 1})

    def test_worker_process(self) -> None:
        """``manage.py runworker`` runs jobs, too; a server with ``--job-threads 0`` runs none."""
        server = self.start("--job-threads", "0")
        (pk,) = self.enqueue(server, "effect", "a")
        worker = self.run_process([*self.twistd()[:1], "manage.py", "runworker"])
        self.wait_until_done(1)
        self.assertEqual(self.result(server, pk)["status"], "SUCCESSFUL")
        self.assertEqual(worker.stop(signal.SIGTERM), 0)

    def test_unique(self) -> None:
        """Many threads of two processes that enqueue the same at once get one job."""
        server = self.start("--processes", "2", "--job-threads", "0")
        code = (
            "import threading\nfrom django.db import connection\nfrom work.tasks import alone\nids = []\n"
            "def run():\n    ids.append(alone.enqueue('x').id)\n    connection.close()\n"
            "threads = [threading.Thread(target=run) for _ in range(25)]\n"
            "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\nprint('ids', *set(ids))\n"
        )
        processes = [self.run_process([*self.twistd()[:1], "manage.py", "shell", "-c", code]) for _ in range(2)]
        found = {process.wait_for(r"^ids (\w+)$")[1] for process in processes}
        self.assertEqual((len(found), self.rows()), (1, {"ready": 1}))
        self.assertTrue(server.process.poll() is None)
        self.assertTrue(re.fullmatch(r"\w{32}", found.pop()))
