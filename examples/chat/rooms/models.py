"""Rooms, the lines said in them, and who is there."""

import uuid
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils import timezone

from .people import person

LINE_LENGTH = 2000

# A page says "I am here" every 25 seconds; a browser may slow down a tab in the background to once a minute.
LEASE = timedelta(seconds=150)


class RoomQuerySet(models.QuerySet):
    def with_activity(self):
        """Add ``people`` (how many are in the room now) and ``last_id`` (its last line), the liveliest room first."""
        last = ChatMessage.objects.filter(room=OuterRef("pk")).order_by("-pk")
        return self.annotate(
            people=Count("presence__user", distinct=True, filter=Q(presence__seen__gt=timezone.now() - LEASE)),
            last_id=Subquery(last.values("pk")[:1]),
            last_at=Coalesce(Subquery(last.values("at")[:1]), "created"),
        ).order_by("-last_at", "-pk")


class Room(models.Model):
    """A place to talk."""

    name = models.CharField(max_length=60, unique=True)
    # Where it is. Names that look alike in a URL, such as C and C++, have different ones; see RoomForm.
    slug = models.SlugField(max_length=60, unique=True, allow_unicode=True)
    created = models.DateTimeField(default=timezone.now)
    # Counts arrivals and departures; see presence.py.
    people_version = models.PositiveIntegerField(default=0, editable=False)

    objects = RoomQuerySet.as_manager()

    def __str__(self):
        return self.name

    def get_absolute_url(self):
        return reverse("room", args=[self.slug])

    @property
    def group_name(self):
        """The group of all sockets in this room. By number: a group's name is ASCII, a room's need not be."""
        return f"room-{self.pk}"


class ChatMessage(models.Model):
    """A line that somebody said in a room; without an author, an announcement of the site itself."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="lines")
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="lines", null=True, blank=True
    )
    text = models.TextField(max_length=LINE_LENGTH)
    at = models.DateTimeField(default=timezone.now)
    # Chosen by the browser. A browser that lost its connection cannot know whether its last line arrived; it sends
    # the line again under the same key, and the line is still stored once.
    key = models.UUIDField(default=uuid.uuid4, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["author", "key"], name="one_line_per_key")]
        indexes = [models.Index(fields=["room", "-id"], name="lines_of_a_room")]

    def __str__(self):
        return self.text[:60]

    def as_dict(self):
        """The line as browsers get it."""
        return {
            "id": self.pk,
            "author": person(self.author) if self.author else None,
            "text": self.text,
            "at": self.at.isoformat(),
            "key": str(self.key),
        }


class PresenceQuerySet(models.QuerySet):
    def fresh(self):
        return self.filter(seen__gt=timezone.now() - LEASE)

    def stale(self):
        return self.filter(seen__lte=timezone.now() - LEASE)


class Presence(models.Model):
    """One open socket in a room. A user with two tabs has two of them, and still is one person."""

    reply_channel = models.CharField(max_length=100, unique=True)
    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="presence")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="presence")
    seen = models.DateTimeField(default=timezone.now, db_index=True)

    objects = PresenceQuerySet.as_manager()

    def __str__(self):
        return f"{self.user} in {self.room}"
