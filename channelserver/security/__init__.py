"""Decorators that restrict who may connect (Channels 1: ``channels.security``)."""
