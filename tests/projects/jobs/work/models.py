"""What jobs leave behind."""

from django.db import models


class Effect(models.Model):
    """A job has run."""

    key = models.CharField(max_length=64, db_index=True)
    pid = models.IntegerField(default=0)
