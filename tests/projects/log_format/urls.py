import logging
import warnings

from django.db import connection
from django.http import HttpResponse
from django.urls import path

from channelserver import Channel, EventStream, Group

logger = logging.getLogger("site.views")


def good(request):
    return HttpResponse("good")


def broken(request):
    raise ValueError("a view\nwith two lines, \x1b[31m and \u2028")


async def broken_too(request):
    raise KeyError("an asynchronous view")


def words(request):
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logger.exception("caught: %s", "said\nin two lines", stack_info=True)
    logger.warning("100%% of %r", {"a": object})
    logger.debug("below the level")
    logging.getLogger("django.request").error("%s of %s", "wrong arguments")  # noqa: PLE1206
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    return HttpResponse("words")


def twisted(request):
    from twisted.internet import defer, reactor
    from twisted.python import log

    def lose():
        log.msg("legacy {text}", "%s")
        log.err(RuntimeError("legacy error"), "why")
        defer.fail(RuntimeError("nobody handles this"))
        raise RuntimeError("in the reactor")

    reactor.callFromThread(lose)
    return HttpResponse("twisted")


def stream(request):
    def parts():
        yield "a"
        raise OSError("in a stream")

    return HttpResponse(parts())


def query(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing")
    return HttpResponse("")


def group(request):
    Group("chat").send({"text": "hello"})
    return HttpResponse("sent")


def jobs(request):
    import tasks

    tasks.fails.enqueue()
    tasks.fails_twice.enqueue()
    Channel("elsewhere").send({})
    return HttpResponse("enqueued")


def events(request):
    return EventStream(["chat"], first=["hello"])


urlpatterns = [
    path("jobs/", jobs),
    path("events/", events),
    path("good/", good),
    path("broken/", broken),
    path("broken_too/", broken_too),
    path("words/", words),
    path("twisted/", twisted),
    path("stream/", stream),
    path("query/", query),
    path("group/", group),
]
