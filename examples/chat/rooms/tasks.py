"""Work on a schedule: every ten minutes a digest for each room in which people have talked.

The server runs it itself, if ``channelserver.jobs`` is among the applications; no cron, no second process.
"""

import uuid
from datetime import timedelta

from django.db.models import Count
from django.utils import timezone

from channelserver import Channel
from channelserver.jobs import job, schedule
from channelserver.jobs.compat import task

from .models import ChatMessage

MINUTES = 10


@schedule(f"*/{MINUTES} * * * *", catch_up="none")
@task
@job(retries=3)
def digest():
    """Say in each room how much was said in it, and by how many."""
    now = timezone.now()
    end = now.replace(minute=now.minute // MINUTES * MINUTES, second=0, microsecond=0)
    said = ChatMessage.objects.filter(at__gte=end - timedelta(minutes=MINUTES), at__lt=end, author__isnull=False)
    for room, lines, people in said.values_list("room").annotate(Count("pk"), Count("author", distinct=True)):
        text = f"The last {MINUTES} minutes: {_count(lines, 'message')} by {_count(people, 'person', 'people')}."
        # The key is the same if the job runs twice: save_line() stores the digest once.
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"digest/{room}/{end.isoformat()}")
        Channel("chat-messages").send({"room": room, "author": None, "text": text, "key": str(key)})


def _count(number, one, many=None):
    return f"{number} {one if number == 1 else many or one + 's'}"
