"""A site of Django REST framework: groups as a resource, uploads, a throttled and a streaming view."""

import hashlib
import json
from itertools import count, takewhile

from django.contrib.auth.models import Group
from django.http import StreamingHttpResponse
from django.urls import include, path
from rest_framework import permissions, routers, serializers, viewsets
from rest_framework.authtoken.views import obtain_auth_token
from rest_framework.decorators import api_view, parser_classes, permission_classes, throttle_classes
from rest_framework.parsers import FileUploadParser, MultiPartParser
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle


class GroupSerializer(serializers.ModelSerializer):
    class Meta:
        model = Group
        fields = ["id", "name"]


class GroupViewSet(viewsets.ModelViewSet):
    """Groups, which everybody reads and users change."""

    queryset = Group.objects.order_by("name")
    serializer_class = GroupSerializer
    permission_classes = [permissions.IsAuthenticatedOrReadOnly]


class ThreeADay(AnonRateThrottle):
    rate = "3/day"


@api_view(["GET"])
@throttle_classes([ThreeADay])
def throttled(request):
    return Response({"from": request.META["REMOTE_ADDR"]})


@api_view(["POST"])
@parser_classes([MultiPartParser])
def form_upload(request):
    file = request.data["file"]
    digest = hashlib.sha256(b"".join(file.chunks())).hexdigest()
    return Response({"name": file.name, "size": file.size, "sha256": digest, "title": request.data["title"]})


@api_view(["PUT"])
@parser_classes([FileUploadParser])
def raw_upload(request, filename):
    file = request.data["file"]
    return Response({"name": file.name, "sha256": hashlib.sha256(b"".join(file.chunks())).hexdigest()}, status=201)


@api_view(["GET"])
@permission_classes([permissions.IsAuthenticated])
def export(request):
    """Lines of JSON, one by one."""
    numbers = takewhile(lambda number: number < int(request.query_params["n"]), count())
    lines = (json.dumps({"n": number, "for": request.user.username}) + "\n" for number in numbers)
    return StreamingHttpResponse(lines, content_type="application/x-ndjson")


router = routers.DefaultRouter()
router.register("groups", GroupViewSet)
urlpatterns = [
    path("api/", include(router.urls)),
    path("auth/", include("rest_framework.urls")),
    path("token/", obtain_auth_token),
    path("throttled/", throttled),
    path("form-upload/", form_upload),
    path("raw-upload/<str:filename>/", raw_upload),
    path("export/", export),
]
