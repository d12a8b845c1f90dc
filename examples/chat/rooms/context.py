"""What all templates know."""

from django.conf import settings


def demo(request):
    """``demo``: whether this is the demo, and if it is ``temporary``."""
    return {"demo": settings.DEMO}
