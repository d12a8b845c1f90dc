"""HTTP/2 (RFC 9113) on top of ``h2``: connections and their streams; owns flow control and the order of frames.

Runs in the reactor thread; imported only when ``h2`` is installed.
May import ``common`` and ``http``.
"""
