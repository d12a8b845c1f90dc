"""What the server answers by itself: static and media files, health, redirects, TLS.

Runs in the reactor thread; owns the certificate in use.
May import ``common``, ``http`` and ``http2``.
"""
