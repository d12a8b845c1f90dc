"""What the server answers without the application: static and media files, health, redirects, TLS.

Runs in the reactor thread; owns the certificate in use.
May import ``common``, ``http`` and ``http2``.
"""
