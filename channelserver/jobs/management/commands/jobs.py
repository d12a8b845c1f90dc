"""``manage.py jobs``: look at jobs, run them again, cancel, prune, pause.

Runs in the main thread; owns nothing.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseProblem
from django.db.models import Count
from django.utils import timezone

from channelserver.jobs import store
from channelserver.jobs.backend import MOST_DAYS, NOT_INSTALLED, JobBackend
from channelserver.jobs.compat import task_backends
from channelserver.jobs.models import ENDED, Job, JobQueue, State, listed
from channelserver.jobs.wake import announce_change


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= MOST_DAYS:
        raise ArgumentTypeError(f"{text!r} is no number of days from 0 to {MOST_DAYS}")
    return days


class Command(BaseCommand):
    """``manage.py jobs list | retry | cancel | prune | pause | resume``."""

    help = "Look at jobs, run them again, cancel them, delete old ones, pause a queue."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--backend", default="default", help="which of TASKS; default: default")
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        listing = commands.add_parser("list", help="how many jobs are in each state, and the latest of them")
        listing.add_argument("--state", choices=[str(state) for state in State], help="only jobs in this state")
        listing.add_argument("--task", help="only jobs of this task, e.g. shop.tasks.send_invoice")
        listing.add_argument("--limit", type=_count, default=20, help="at most so many; default: 20")
        for name, text in (
            ("retry", "run jobs again that have ended"),
            ("cancel", "cancel jobs that wait; ask running ones to end"),
        ):
            command = commands.add_parser(name, help=text)
            command.add_argument("ids", nargs="*", metavar="ID", help="identifiers of jobs")
            command.add_argument("--state", choices=[str(state) for state in State], help="all jobs in this state")
            command.add_argument("--task", help="only jobs of this task")
        prune = commands.add_parser("prune", help="delete jobs that have ended")
        prune.add_argument("--done-days", type=_days, help="keep done and cancelled ones for so long")
        prune.add_argument("--dead-days", type=_days, help="keep dead ones for so long")
        for name, text in (("pause", "start no more jobs of a queue"), ("resume", "start jobs of a queue again")):
            commands.add_parser(name, help=text).add_argument("queue", help="the name of the queue")

    def check(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().check(*args, **kwargs)
        except ImproperlyConfigured as error:  # such as a BACKEND that Django cannot find
            raise CommandError(str(error)) from error

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.backend = task_backends[options["backend"]]
        except Exception as error:
            raise CommandError(f"TASKS[{options['backend']!r}] cannot be used: {error}") from error
        if not isinstance(self.backend, JobBackend):
            raise CommandError(
                f"TASKS[{options['backend']!r}] is {type(self.backend).__name__}, whose jobs are not kept; "
                'set its BACKEND to "channelserver.jobs.JobBackend"'
            )
        self.using = self.backend.database
        try:
            getattr(self, f"_{options['command']}")(options)
        except DatabaseProblem as error:
            hint = f"; {NOT_INSTALLED}" if "channelserver_jobs" in str(error) else ""
            raise CommandError(f"the database of the jobs cannot be used: {error}{hint}") from error

    def _chosen(self, options: dict[str, Any]) -> Any:
        """Return the jobs that the arguments name."""
        jobs = Job.objects.using(self.using).order_by("-id")
        ids = options.get("ids")
        if ids:
            missing = sorted(set(ids) - set(jobs.filter(pk__in=ids).values_list("pk", flat=True)))
            if missing:
                raise CommandError(f"there is no job {missing[0]!r}; manage.py jobs list shows the latest")
            jobs = jobs.filter(pk__in=ids)
        if options.get("state"):
            jobs = listed(jobs, options["state"])
        if options.get("task"):
            jobs = jobs.filter(task=options["task"])
        return jobs

    def _some(self, options: dict[str, Any]) -> Any:
        if not (options["ids"] or options["state"] or options["task"]):
            raise CommandError(f"which jobs? Name them: manage.py jobs {options['command']} ID, or --state dead")
        return self._chosen(options)

    def _list(self, options: dict[str, Any]) -> None:
        counts = Job.objects.using(self.using).order_by().values_list("state").annotate(Count("pk"))
        found = dict(counts)
        self.stdout.write(", ".join(f"{found.get(str(state), 0)} {state}" for state in State))
        for job in self._chosen(options)[: options["limit"]]:
            when = job.finished_at or (job.run_at if job.state == State.WAITING else job.started_at) or job.created_at
            line = f"{job.pk}  {job.state:<9}  {when:%Y-%m-%d %H:%M:%S}  attempt {job.attempt}  {job.task}"
            error = job.errors.last() if job.state in (State.DEAD, State.WAITING) else None
            self.stdout.write(line + (f"  {error.exception_class}" if error is not None else ""))

    def _retry(self, options: dict[str, Any]) -> None:
        some = self._some(options)
        asked = some.filter(state__in=(*ENDED, State.WAITING)).count()
        count = store.retry(self.using, some)
        announce_change(self.using)
        hint = f"; {asked - count} will not, for another job has their unique key" if count < asked else ""
        self.stdout.write(f"{count} will run again{hint}")

    def _cancel(self, options: dict[str, Any]) -> None:
        cancelled, asked = store.cancel(self.using, self._some(options))
        announce_change(self.using)
        self.stdout.write(f"{cancelled} cancelled" + (f", {asked} running ones asked to end" if asked else ""))

    def _prune(self, options: dict[str, Any]) -> None:
        now, total = timezone.now(), 0
        done, dead = options["done_days"], options["dead_days"]
        done = self.backend.keep_done_days if done is None else done
        dead = self.backend.keep_dead_days if dead is None else dead
        while count := store.prune(self.using, now - timedelta(days=done), now - timedelta(days=dead)):
            total += count
        self.stdout.write(f"{total} deleted")

    def _pause(self, options: dict[str, Any]) -> None:
        if self.backend.queues and options["queue"] not in self.backend.queues:
            raise CommandError(
                f"there is no queue {options['queue']!r}; TASKS[{self.backend.alias!r}] has "
                + ", ".join(sorted(self.backend.queues))
            )
        JobQueue.objects.using(self.using).update_or_create(name=options["queue"], defaults={"paused": True})
        self.stdout.write(f"queue {options['queue']} is paused; manage.py jobs resume {options['queue']} ends that")

    def _resume(self, options: dict[str, Any]) -> None:
        count, _ = JobQueue.objects.using(self.using).filter(name=options["queue"]).delete()
        self.stdout.write(f"queue {options['queue']} " + ("runs" if count else "was not paused"))
