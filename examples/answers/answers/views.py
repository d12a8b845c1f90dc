"""The page, the answers, and a plain view beside them."""

import json
from contextlib import contextmanager

from django.http import HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.shortcuts import render

from . import model

QUESTION_LENGTH = 200

#: How many answers are under way. Only coroutines alter it, and they run in one thread, so it needs no lock.
under_way = 0


def page(request):
    """The page itself; ``page.js`` does the rest."""
    return render(request, "answers/page.html", {"question_length": QUESTION_LENGTH})


def now(request):
    """A plain view: how many answers are under way."""
    return JsonResponse({"answers": under_way})


async def answer(request):
    """Answer ``?q=`` with an event for each token. A browser that comes back gets the tokens it has not seen."""
    question = " ".join(request.GET.get("q", "").split())[:QUESTION_LENGTH]
    if not question:
        return HttpResponseBadRequest("Ask something: /answer/?q=…\n", content_type="text/plain; charset=utf-8")
    seen = request.headers.get("Last-Event-ID", "")
    start = int(seen) + 1 if seen.isdecimal() and len(seen) < 10 else 0
    return StreamingHttpResponse(
        events(question, start), content_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def events(question, start):
    """Yield the events. When the client leaves, the server closes this generator."""
    with counted():
        async for number, token in model.generate(question, start):
            yield f"id: {number}\ndata: {json.dumps(token)}\n\n"
        yield "event: end\ndata: \n\n"


@contextmanager
def counted():
    """Count an answer as long as it is under way."""
    global under_way
    under_way += 1
    try:
        yield
    finally:
        under_way -= 1
