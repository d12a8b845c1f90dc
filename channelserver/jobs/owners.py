"""The servers that run jobs of a database: which have ended, so that others take their jobs.

Runs in the claimer's thread; owns nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta

from django.db.models.functions import Now
from django.utils import timezone

from channelserver.jobs import ends
from channelserver.jobs.listening import PostgreSQL
from channelserver.jobs.models import JobServer
from channelserver.jobs.presence import Presence
from channelserver.jobs.store import Look

logger = logging.getLogger("channelserver.jobs")

#: Seconds until a second look at a server that may have ended.
AGAIN_SECONDS = 2.0
#: After so long a silence, the row of a server on another host is deleted.
FORGOTTEN_AFTER = timedelta(days=1)


class Owners:
    """Looks after the jobs of processes that have ended.

    :param using: alias of the database.
    :param presence: of this process.
    :param postgresql: knows the servers of other hosts; None: the database is SQLite.
    :param counters: of what happened.
    """

    def __init__(self, using: str, presence: Presence, postgresql: PostgreSQL | None, counters: Counter[str]) -> None:
        self._using = using
        self._presence = presence
        self._postgresql = postgresql
        self._counters = counters

    def rescue(self, found: Look, now: float) -> bool:
        """Take the jobs of owners that have ended.

        :param now: on the monotonic clock.
        :returns: whether some may have ended, and want a second look in :data:`AGAIN_SECONDS`.
        """
        dead, again = self._dead(found.owners - {self._presence.id}, found.silent, now)
        for owner in dead:
            under_way = self._presence.under_way(owner)
            count, poison = ends.rescue(self._using, owner, under_way, timezone.now())
            self._presence.forget(owner)
            JobServer.objects.using(self._using).filter(pk=owner).delete()
            self._counters["rescued"] += count
            if count:
                logger.warning("%d job(s) of a process that died are run again", count)
            for job in poison:
                self._counters["dead"] += 1
                logger.error("job %s is dead: the process that ran it died %d times", job, ends.MOST_DEATHS)
        return again

    def _dead(self, owners: set[str], silent: dict[str, float], now: float) -> tuple[set[str], bool]:
        known = {owner: self._presence.is_dead(owner) for owner in owners}
        dead = {owner for owner, is_dead in known.items() if is_dead}
        unknown = {owner for owner, is_dead in known.items() if is_dead is None}
        if self._postgresql is None:  # a folder beside the database has the files of all owners that live
            return dead | unknown, False
        found, again = self._postgresql.are_dead(unknown, silent, now)
        return dead | found, again

    def forget(self) -> None:
        """Delete what processes that have ended have left behind beside their jobs."""
        JobServer.objects.using(self._using).filter(pk=self._presence.id).update(seen=Now())  # an idle one may not look
        servers = JobServer.objects.using(self._using).exclude(pk=self._presence.id)
        if self._postgresql is not None:
            servers = servers.filter(seen__lt=timezone.now() - FORGOTTEN_AFTER)
        ids = servers.values_list("pk", flat=True)
        gone = [pk for pk in ids if self._presence.is_dead(pk) is not False]
        JobServer.objects.using(self._using).filter(pk__in=gone).delete()
        self._presence.forget_dead()
