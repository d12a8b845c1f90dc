"""Notes of rooms, and the binding that tells a room's sockets of them."""

from django.db import models

from channelserver.binding.websockets import WebsocketBinding


class Note(models.Model):
    """A note, which is made, changed and deleted."""

    room = models.CharField(max_length=40)
    text = models.TextField()


class NoteBinding(WebsocketBinding):
    """Sends notes to their room."""

    model = Note
    stream = "notes"
    fields = ("room", "text")

    @classmethod
    def group_names(cls, instance: Note) -> list[str]:
        """The sockets of the note's room."""
        return [f"room-{instance.room}"]

    def has_permission(self, user: object, action: str, pk: object) -> bool:
        """Clients change nothing."""
        return False
