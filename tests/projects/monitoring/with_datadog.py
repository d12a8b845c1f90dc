"""Datadog. ``ddtrace-run`` has set it up; its traces are written here instead of sent to an agent."""

from ddtrace.trace import TraceFilter, tracer
from reports import report

KEYS = (
    "http.status_code", "http.url", "http.method", "http.route", "django.view", "django.user.name", "usr.id",
    "error.message", "django.request.class", "django.response.class",
)  # fmt: skip


class Written(TraceFilter):
    """Writes a request, with the spans of its views."""

    def process_trace(self, trace):
        request = trace[0]
        tags = {key: request.get_tag(key) for key in KEYS if request.get_tag(key) is not None}
        views = [span for span in trace if span.name.startswith("django.view")]
        report(
            "trace",
            name=request.name,
            resource=request.resource,
            error=request.error,
            views=[f"{span.name} {span.resource}" for span in views],
            errors=[span.get_tag("error.message") for span in views if span.error],
            tags=tags,
        )


def begin(settings):
    tracer.configure(trace_processors=[Written()])


def identify(name):
    tracer.current_root_span().set_tag("usr.id", name)
