from channels import Channel
from django.db import models


class Terminal(models.Model):
    """A client that is connected now."""

    channel_name = models.CharField(max_length=37, unique=True)
    place = models.CharField(max_length=20)

    def say(self, text):
        Channel(self.channel_name).send({"text": text})
