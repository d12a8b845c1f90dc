"""WebSockets (RFC 6455, RFC 7692): handshake, frames, compression, origin checks; owns an open socket's state.

Runs in the reactor thread.
May import ``common`` and ``http``.
"""
