"""What the server answers or refuses by itself: limits, static and media files, health, redirects, TLS.

Runs in the reactor thread; owns the certificate in use and the numbers of open connections.
May import ``common``, ``http`` and ``http2``.
"""
