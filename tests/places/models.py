"""A model with a generated field, a proxy of it, and a child."""

from __future__ import annotations

import datetime
from typing import Any

from django.db import models
from django.db.models.functions import Upper


class Tag(models.Model):
    """A word for places."""

    name = models.CharField(max_length=20)


class Place(models.Model):
    """A place in a town."""

    name = models.CharField(max_length=20)
    town = models.CharField(max_length=20, default="here")
    opened: Any = models.DateField(default=datetime.date(2026, 1, 2))
    visits: Any = models.IntegerField(default=0)
    sign = models.GeneratedField(
        expression=Upper("name"), output_field=models.CharField(max_length=20), db_persist=True
    )
    tags = models.ManyToManyField(Tag)


class Landmark(Place):
    """The same rows by another name."""

    class Meta:
        proxy = True


class Cafe(Place):
    """A place with a table of its own beside."""

    tables = models.IntegerField(default=4)
