import lab
from django.contrib.contenttypes.models import ContentType
from django.core.signals import request_finished
from django.db.models.signals import post_save

from channelserver import Channel


def consumer(message):
    lab.note("any-name", sender=message["from"])
    if message["from"] == "a view":
        Channel("any-name").send({"from": "a consumer"})


def saved(sender, instance, **kwargs):
    Channel("any-name").send({"from": "a signal"})


post_save.connect(saved, sender=ContentType, weak=False)
request_finished.connect(lambda **kwargs: Channel("any-name").send({"from": "the end of a request"}), weak=False)

channel_routing = {"any-name": consumer}
