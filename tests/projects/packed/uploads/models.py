"""A file that somebody has uploaded."""

from django.db import models


class Upload(models.Model):
    """One file."""

    file = models.FileField()
