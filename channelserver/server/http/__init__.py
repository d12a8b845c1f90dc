"""HTTP/1.1 (RFC 9112), and what HTTP/2 shares with it: bodies, exchanges, the dispatcher; owns a request under way.

Runs in the reactor thread.
May import ``common``; HTTP/1.1 connections may become WebSockets, so ``connection`` also imports ``websocket``.
"""
