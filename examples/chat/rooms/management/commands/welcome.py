"""``manage.py welcome``: a first room with three lines; ``channelserver demo`` runs this, too."""

from django.core.management.base import BaseCommand

from ...models import ChatMessage, Room

LINES = (
    "Welcome! Pages, sockets and the history of this chat come from one process.",
    "Type something below: everybody in this room sees it at once.",
    "Rooms are made on the front page. Name one, and it is there.",
)


class Command(BaseCommand):
    help = "Makes the room Welcome with three lines, unless there is a room already."

    def handle(self, **options):
        if not Room.objects.exists():
            room = Room.objects.create(name="Welcome", slug="welcome")
            for text in LINES:
                ChatMessage.objects.create(room=room, text=text)
