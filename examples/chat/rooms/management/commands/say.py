"""``manage.py say``: send a line to a room from another process, for example from cron."""

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from channelserver import Channel

from ...models import Room


class Command(BaseCommand):
    help = "Sends a line to a room of the running server."

    def add_arguments(self, parser):
        parser.add_argument("room", help="the room, as in its URL")
        parser.add_argument("text", help="the text of the line")
        parser.add_argument("--as", dest="username", help="user who sends it; without, the line is an announcement")

    def handle(self, *args, room, text, username, **options):
        try:
            room_id = Room.objects.get(slug=room).pk
            author = get_user_model().objects.get_by_natural_key(username).pk if username else None
        except Room.DoesNotExist:
            raise CommandError(f"There is no room {room!r}.") from None
        except get_user_model().DoesNotExist:
            raise CommandError(f"There is no user {username!r}.") from None
        Channel("chat-messages").send({"room": room_id, "author": author, "text": text})
