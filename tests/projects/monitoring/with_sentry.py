"""Sentry."""

import sentry_sdk
from reports import report
from sentry_sdk.transport import Transport


class Written(Transport):
    """Writes errors and transactions."""

    def capture_envelope(self, envelope):
        for item in envelope.items:
            event = item.payload.json or {}
            common = {
                "name": event.get("transaction"),
                "url": event.get("request", {}).get("url"),
                "method": event.get("request", {}).get("method"),
                "user": (event.get("user") or {}).get("username"),
                "tags": {key: tag for key, tag in (event.get("tags") or {}).items() if key != "asgi.type"},
            }
            if event.get("type") == "transaction":
                trace = event["contexts"]["trace"]
                report("transaction", status=trace.get("status"), op=trace["op"], origin=trace["origin"], **common)
            elif "exception" in event:
                error = event["exception"]["values"][-1]
                report("error", error=error["value"], mechanism=error["mechanism"]["type"], **common)

    def flush(self, *args, **kwargs):
        """Nothing waits."""


def begin(settings):
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1", transport=Written, traces_sample_rate=1.0, send_default_pii=True,
        auto_session_tracking=False,
    )  # fmt: skip


def identify(name):
    sentry_sdk.set_tag("visitor", name)
