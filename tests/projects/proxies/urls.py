from django.http import JsonResponse
from django.urls import re_path


def show(request):
    return JsonResponse(
        {
            "client": request.META.get("REMOTE_ADDR"),
            "scheme": request.scheme,
            "secure": request.is_secure(),
            "host": request.get_host(),
            "port": request.get_port(),
            "uri": request.build_absolute_uri(),
            "forwarded": {key: value for key, value in request.META.items() if "FORWARDED" in key},
            "length": len(request.body),
        }
    )


urlpatterns = [re_path("", show)]
