from django.http import HttpResponse, JsonResponse
from django.urls import path


def scheme(request):
    request.session["seen"] = request.session.get("seen", 0) + 1
    return JsonResponse(
        {
            "scheme": request.scheme,
            "secure": request.is_secure(),
            "seen": request.session["seen"],
            "url": request.build_absolute_uri(),
            "version": request.META["SERVER_PROTOCOL"],
        }
    )


urlpatterns = [path("", scheme), path("big", lambda request: HttpResponse(b"x" * 3_000_000))]
