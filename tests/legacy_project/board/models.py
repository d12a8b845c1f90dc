"""What is stored."""

from django.db import models


class Note(models.Model):
    """A note on a board."""

    board = models.CharField(max_length=50)
    text = models.TextField()
    author = models.CharField(max_length=150, blank=True)
