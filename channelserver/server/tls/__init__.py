"""Certificates by name, and what a client says before its TLS handshake.

Runs in the reactor thread (the first load before the reactor); owns the contexts from which TLS connections are made.
May import ``common``.
"""
