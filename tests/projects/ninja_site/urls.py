"""A site of django-ninja: groups as a resource, with the asynchronous ORM; an upload; two who meet."""

import asyncio
import hashlib
import threading

from django.contrib.auth.models import Group
from django.http import StreamingHttpResponse
from django.shortcuts import aget_object_or_404
from django.urls import path
from ninja import File, NinjaAPI, Schema
from ninja.files import UploadedFile
from ninja.security import HttpBearer

api = NinjaAPI(title="Groups")


class GroupIn(Schema):
    name: str


class GroupOut(Schema):
    id: int
    name: str


class Bearer(HttpBearer):
    async def authenticate(self, request, token):
        return "alice" if token == "secret" else None


@api.post("/groups", response={201: GroupOut})
async def create(request, data: GroupIn):
    return 201, await Group.objects.acreate(name=data.name)


@api.get("/groups", response=list[GroupOut])
async def read_all(request, starts: str = ""):
    return [group async for group in Group.objects.filter(name__startswith=starts).order_by("name")]


@api.get("/groups/{number}", response=GroupOut)
async def read(request, number: int):
    return await aget_object_or_404(Group, pk=number)


@api.put("/groups/{number}", response=GroupOut)
async def update(request, number: int, data: GroupIn):
    group = await aget_object_or_404(Group, pk=number)
    group.name = data.name
    await group.asave()
    return group


@api.delete("/groups/{number}", response={204: None})
async def delete(request, number: int):
    await (await aget_object_or_404(Group, pk=number)).adelete()
    return 204, None


@api.post("/upload")
async def upload(request, file: UploadedFile = File(...)):  # noqa: B008
    digest = hashlib.sha256(b"".join(file.chunks())).hexdigest()
    return {"name": file.name, "sha256": digest, "thread": threading.current_thread().name}


@api.get("/me", auth=Bearer())
async def me(request):
    return {"name": request.auth}


@api.get("/plain")
def plain(request):
    return {"thread": threading.current_thread().name}


both = asyncio.Barrier(20)


@api.get("/meet")
async def meet(request):
    """Answers when 20 have asked."""
    await both.wait()
    return {"met": True}


@api.get("/stream")
async def stream(request):
    async def parts():
        for number in range(3):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts())


urlpatterns = [path("api/", api.urls)]
