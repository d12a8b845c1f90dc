"""How a user is shown to others."""

import re

HUES = 12


def person(user):
    """What browsers get to know of ``user``: number, name, initials, and which of the avatar colours."""
    return {"id": user.pk, "name": user.username, "initials": initials(user.username), "hue": user.pk % HUES}


def initials(name):
    """Two letters for the avatar: ``ada.lovelace`` gives AL, ``grace`` gives GR."""
    words = [word for word in re.split(r"[\W_]+", name) if word]
    if len(words) > 1:
        return (words[0][0] + words[1][0]).upper()
    return "".join(words)[:2].upper() or "?"
