"""Where Channels 1 has :class:`HttpClient`: ``channels.test.http``."""

from channelserver.test.websocket import WSClient

__all__ = ["HttpClient"]

HttpClient = WSClient
