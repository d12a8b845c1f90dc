"""The lines said so far."""

from .models import ChatMessage

PAGE = 50
CATCH_UP = 200

# Two threads can store two lines at the same moment, and the later number can reach a browser first. One that lost its
# connection between the two asks for what came "after" the later. So a few are always sent again; browsers know a line
# by its number, and show it once.
OVERLAP = 20


def latest(room_id, before=None):
    """The last lines of a room, oldest first, and whether there are more before them."""
    lines = ChatMessage.objects.filter(room=room_id)
    if before is not None:
        lines = lines.filter(pk__lt=before)
    return _newest(lines, PAGE)


def since(room_id, line_id):
    """What a browser missed whose last line is ``line_id``, and whether some of it was left out.

    Ask after joining the room's group, not before: then a line comes at least once, by one way or the other.
    """
    return _newest(ChatMessage.objects.filter(room=room_id, pk__gt=line_id - OVERLAP), CATCH_UP)


def line_number(text):
    """A line's number out of a URL, or ``None``."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _newest(lines, count):
    page = list(lines.select_related("author").order_by("-pk")[: count + 1])
    return [line.as_dict() for line in reversed(page[:count])], len(page) > count
