from waiting import say, wait_for

from channelserver import Channel


def connect(message):
    if message["path"] == "/slow/":
        say("connect", "begun")
        wait_for("go")


def receive(message):
    say("receive", "begun")
    wait_for("go")
    message.reply_channel.send({"text": "too late for the socket"})
    Channel("notes").send({"text": "held back"})
    say("receive", "ended")


def disconnect(message):
    say("{} {}".format(message["path"], message["code"]), "disconnected")


def note(message):
    say(message["text"], "notes")
