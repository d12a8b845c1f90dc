from django.core.management.base import BaseCommand

from channelserver import Channel, Group


class Command(BaseCommand):
    def handle(self, *args, **options):
        Channel("work").send({"text": "from a command"})
        Group("all").send({"text": "to all"})
        names = Group("all").channel_layer.group_channels("all")
        Group("more").add(names[0])
        Group("more").send({"text": "to more"})
        Group("more").discard(names[0])
        Group("more").send({"text": "to nobody"})
        Group("all").send({"bytes": b"\x00\xff"})
