import threading

import lab
from django.db import connection

from channelserver import route
from channelserver.signals import consumer_finished, consumer_started, worker_ready

thread_of = threading.local()


def started(sender, **kwargs):
    thread_of.started = threading.get_ident()
    thread_of.before = id(connection.connection) if connection.connection else None


def finished(sender, **kwargs):
    lab.note("finished", same=thread_of.started == threading.get_ident(), sender=sender.__name__)


consumer_started.connect(started)
consumer_finished.connect(finished)
worker_ready.connect(lambda sender, **kwargs: lab.note("ready", sender=type(sender).__name__), weak=False)


def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def receive(message):
    workers = sum(thread.name.startswith("worker") for thread in threading.enumerate())
    same, before = thread_of.started == threading.get_ident(), thread_of.before is not None
    lab.note("consumer", same=same, before=before, workers=workers)
    if message["text"] == "query":
        query()
    elif message["text"] == "wait":
        query()
        lab.wait_for_gate("receive")
    message.reply_channel.send({"text": "done"})


channel_routing = [route("websocket.receive", receive)]
