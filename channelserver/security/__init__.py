"""Decorators that keep strangers out (Channels 1: ``channels.security``)."""
