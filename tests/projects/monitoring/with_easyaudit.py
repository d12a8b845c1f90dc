"""django-easy-audit, which writes into the database of the site; here what it stores is written to the file, too."""

from django.db.models.signals import post_save
from reports import report


def begin(settings):
    settings["INSTALLED_APPS"] = [*settings["INSTALLED_APPS"], "easyaudit"]
    settings["MIDDLEWARE"] = [*settings["MIDDLEWARE"], "easyaudit.middleware.easyaudit.EasyAuditMiddleware"]
    post_save.connect(written, weak=False)


def written(sender, instance, **_):
    if sender.__name__ == "RequestEvent":
        report(
            "request", url=instance.url, method=instance.method, query=instance.query_string, user=str(instance.user),
            address=instance.remote_ip,
        )  # fmt: skip
    elif sender.__name__ == "CRUDEvent":
        report("change", what=instance.object_repr, event=instance.event_type, user=str(instance.user))
