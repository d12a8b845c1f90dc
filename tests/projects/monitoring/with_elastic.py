"""Elastic APM."""

import elasticapm
from elasticapm.transport.base import Transport
from reports import report


class Written(Transport):
    """Writes errors and transactions."""

    def start_thread(self, pid=None):
        """Nothing is sent."""

    def queue(self, event_type, data, flush=False):
        context = data.get("context", {})
        common = {
            "user": context.get("user", {}).get("username"),
            "url": context.get("request", {}).get("url", {}).get("full"),
            "method": context.get("request", {}).get("method"),
        }
        if event_type == "transaction":
            report("transaction", name=data["name"], result=data["result"], outcome=data["outcome"], **common)
        elif event_type == "error":
            report("error", error=data["exception"]["message"], **common)

    def close(self):
        """Nothing is open."""


def begin(settings):
    settings["INSTALLED_APPS"] = [*settings["INSTALLED_APPS"], "elasticapm.contrib.django"]
    settings["MIDDLEWARE"] = ["elasticapm.contrib.django.middleware.TracingMiddleware", *settings["MIDDLEWARE"]]
    settings["ELASTIC_APM"] = {
        "SERVICE_NAME": "site", "TRANSPORT_CLASS": "with_elastic.Written", "CENTRAL_CONFIG": False,
        "CLOUD_PROVIDER": False, "METRICS_INTERVAL": "0s", "VERIFY_SERVER_CERT": False,
    }  # fmt: skip


def identify(name):
    elasticapm.set_custom_context({"visitor": name})
