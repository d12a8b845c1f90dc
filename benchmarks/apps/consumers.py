"""The same consumers as :mod:`benchmarks.apps.routing`, for Channels 4: synchronous and asynchronous.

Channels runs the synchronous classes in a thread, the others in the event loop; those neither compute nor wait for a
database.
"""

from typing import Any

from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from benchmarks.apps import burden

EVERYBODY = "everybody"


class Echo(WebsocketConsumer):
    """Send the message back."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data)


class Member(WebsocketConsumer):
    """A member of the group, which forwards messages to the group, and echoes."""

    groups = [EVERYBODY]

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data)

    def said(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"])


class Speaker(WebsocketConsumer):
    """Send a text to the whole group."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async_to_sync(self.channel_layer.group_send)(EVERYBODY, {"type": "said", "text": text_data})


class Burner(WebsocketConsumer):
    """Compute, then answer."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        burden.burn()
        self.send(text_data=text_data)


class Sleeper(WebsocketConsumer):
    """Wait for the database, then answer."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        burden.sleep_in_database()
        self.send(text_data=text_data)


class AsyncEcho(AsyncWebsocketConsumer):
    """Send the message back."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)


class AsyncMember(AsyncWebsocketConsumer):
    """A member of the group, which forwards messages to the group, and echoes."""

    groups = [EVERYBODY]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class AsyncSpeaker(AsyncWebsocketConsumer):
    """Send a text to the whole group."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(EVERYBODY, {"type": "said", "text": text_data})
