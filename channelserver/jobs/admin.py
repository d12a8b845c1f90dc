"""The admin pages of the jobs: look at them, run them again, cancel them, pause a queue, change a schedule.

Runs in worker threads; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html

from channelserver.jobs import store
from channelserver.jobs.marks import check_cron, check_tz
from channelserver.jobs.models import ENDED, ORDERS, Job, JobError, JobQueue, JobServer, Schedule, listed
from channelserver.jobs.schedules import check_task, next_time
from channelserver.jobs.wake import announce_change

#: Rows that a list counts: counting a hundred thousand takes longer than showing a page of them.
MOST_COUNTED = 10_000


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts up to :data:`MOST_COUNTED` rows, in the order of the list: so PostgreSQL, too, reads no others."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.values("pk")[:MOST_COUNTED].count())


class _Errors(admin.TabularInline):  # type: ignore[type-arg]
    model = JobError
    extra = 0
    can_delete = False
    fields = readonly_fields = ("at", "lines")  # the title of a row names the error and the attempt

    @admin.display(description="Traceback")
    def lines(self, error: JobError) -> str:
        """The traceback as it is: its indentation tells the code from its places."""
        return format_html('<pre style="margin: 0; white-space: pre-wrap">{}</pre>', error.traceback)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may look at a job sees what went wrong with it."""
        return request.user.has_perm("channelserver_jobs.view_job")  # type: ignore[union-attr]


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only the server writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _state_of(request: HttpRequest) -> str:
    """Return the state whose jobs a list shows; empty: all."""
    return request.GET.get("state__exact", "")


class _StateFilter(admin.ChoicesFieldListFilter):
    """The jobs of one state, found in its index."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        state = _state_of(request)
        found: Any = listed(queryset, state) if state in ORDERS else super().queryset(request, queryset)
        ordered: QuerySet[Any] = found.order_by()
        return ordered


class _JobList(ChangeList):
    """A page of jobs."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Leave out an order that the page does not offer; another page may have."""
        if not self.sortable_by:
            self.params.pop(ORDER_VAR, None)
        return super().get_ordering(request, queryset)


#: What few people want to know of a job.
_MORE = (
    "backend", "queue", "priority", "runs_on", "started_at", "owner", "worker_ids", "unique_key", "unique_until",
    "concurrency_key", "concurrency", "cancel_requested", "overdue",
)  # fmt: skip


@admin.register(Job)
class JobAdmin(_ReadOnly):
    """Jobs. The dead ones are a click on "Dead" away."""

    # What matters first: a phone shows little more than two columns, and an identifier is as wide as three.
    list_display = ("task", "state", "attempt", "run_at", "finished_at", "queue", "priority", "id")
    list_filter = (("state", _StateFilter),)  # with indexes; a filter by queue or task would read the whole table
    show_facets = admin.ShowFacets.NEVER  # so would counts beside the states
    search_fields = ("id__exact",)
    search_help_text = "the identifier of a job"
    show_full_result_count = False
    paginator = CappedPaginator
    fieldsets = (
        (None, {"fields": (("task", "state"), "args", "result", ("attempt", "failures", "deaths"))}),
        (None, {"fields": (("created_at", "run_at"), ("last_attempted_at", "finished_at"))}),
        ("More", {"classes": ("collapse",), "fields": _MORE}),
    )
    inlines = (_Errors,)
    actions = ("run_again", "run_now", "cancel")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """Leave out what a list does not show, and may be large."""
        return super().get_queryset(request).defer("args", "result", "worker_ids")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _JobList

    def get_ordering(self, request: HttpRequest) -> Any:
        """The order of a state's index; of all jobs, the latest first."""
        return ORDERS.get(_state_of(request), ("-id",))

    def get_sortable_by(self, request: HttpRequest) -> Any:
        """No order but those of indexes."""
        return () if _state_of(request) else ("id",)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        """Whether a user may run jobs again and cancel them; looking at them is another permission."""
        return request.user.has_perm("channelserver_jobs.manage_job")  # type: ignore[union-attr]

    @admin.action(description="Run again", permissions=["manage"])
    def run_again(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._done(request, store.retry(jobs.db, jobs.filter(state__in=ENDED)), "will run again", jobs.db)

    @admin.action(description="Run now", permissions=["manage"])
    def run_now(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._done(request, store.run_now(jobs.db, jobs), "will run now", jobs.db)

    @admin.action(description="Cancel", permissions=["manage"])
    def cancel(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        cancelled, asked = store.cancel(jobs.db, jobs)
        self._done(request, cancelled, "cancelled", jobs.db)
        if asked:
            self.message_user(request, f"{asked} running: asked to end", messages.INFO)

    def _done(self, request: HttpRequest, count: int, what: str, using: str) -> None:
        announce_change(using)
        self.message_user(request, f"{count} {what}", messages.SUCCESS if count else messages.WARNING)


class _ScheduleForm(ModelForm):  # type: ignore[type-arg]
    class Meta:
        labels: ClassVar = {"tz": "Time zone"}
        help_texts: ClassVar = {
            "name": "any, but no other schedule has it",
            "task": "a task without arguments, such as shop.tasks.morning_report",
            "cron": "minute, hour, day of the month, month, day of the week, as in a crontab: 0 6 * * mon-fri",
            "tz": "such as Europe/Vienna; empty: the setting TIME_ZONE",
            "catch_up": "of the times at which no server ran: run it once for the last, once for each of all, or none",
        }

    def clean_cron(self) -> str:
        return self._checked("cron", check_cron)

    def clean_task(self) -> str:
        return self._checked("task", check_task)

    def clean_tz(self) -> str:
        return self._checked("tz", check_tz)

    def _checked(self, name: str, check: Callable[[str], object]) -> str:
        value: str = self.cleaned_data[name]
        try:
            if value:
                check(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error
        return value


@admin.register(Schedule)
class ScheduleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Schedules. Of one that stands in the code, only ``enabled`` can be changed here."""

    form = _ScheduleForm
    list_display = ("name", "task", "cron", "tz", "enabled", "next_at", "in_code")
    readonly_fields = ("next_at",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None and obj.in_code:
            return ("name", "task", "cron", "tz", "catch_up", "next_at")
        return self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        obj.next_at = next_time(obj.cron, obj.tz, timezone.now())
        super().save_model(request, obj, form, change)


@admin.register(JobQueue)
class JobQueueAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Paused queues."""

    list_display = ("name", "paused")


@admin.register(JobServer)
class JobServerAdmin(_ReadOnly):
    """The processes that run jobs."""

    list_display = ("id", "host", "pid", "started")


__all__ = ["JobAdmin", "JobQueueAdmin", "JobServerAdmin", "ScheduleAdmin"]
