"""``manage.py say``: put a line into a room from outside, for instance from cron."""

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from channelserver import Channel

from ...models import Room


class Command(BaseCommand):
    help = "Says something in a room of the running server."

    def add_arguments(self, parser):
        parser.add_argument("room", help="the room, as in its address")
        parser.add_argument("text", help="what to say")
        parser.add_argument("--as", dest="username", help="who says it; without, it is an announcement")

    def handle(self, *args, room, text, username, **options):
        try:
            room_id = Room.objects.get(slug=room).pk
            author = get_user_model().objects.get_by_natural_key(username).pk if username else None
        except Room.DoesNotExist:
            raise CommandError(f"There is no room {room!r}.") from None
        except get_user_model().DoesNotExist:
            raise CommandError(f"There is no user {username!r}.") from None
        Channel("chat-messages").send({"room": room_id, "author": author, "text": text})
