import lab
from asgiref.sync import iscoroutinefunction
from django.http import HttpResponse
from django.utils.decorators import async_only_middleware, sync_and_async_middleware


def plain(get_response):
    def middleware(request):
        lab.note("request", path=request.path)
        if request.path == "/short-cut":
            return HttpResponse("short cut")
        response = get_response(request)
        response["X-Plain"] = "yes"
        return response

    return middleware


@async_only_middleware
def asynchronous(get_response):
    async def middleware(request):
        response = await get_response(request)
        response["X-Asynchronous"] = "yes"
        return response

    return middleware


@sync_and_async_middleware
def both(get_response):
    if iscoroutinefunction(get_response):

        async def middleware(request):
            response = await get_response(request)
            response["X-Both"] = "yes"
            return response
    else:

        def middleware(request):
            response = get_response(request)
            response["X-Both"] = "yes"
            return response

    return middleware


class Catching:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if "catch" in request.GET:
            return HttpResponse("caught", status=418)
