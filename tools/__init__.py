"""Checks of the source tree that ``tox -e lint`` runs; they need the standard library only."""
