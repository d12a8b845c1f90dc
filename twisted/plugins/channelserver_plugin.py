"""Makes ``twistd channelserver`` known. No ``__init__.py`` here: this adds one module to Twisted's own package."""

from twisted.application.service import ServiceMaker

channelserver = ServiceMaker(
    "channelserver",
    "channelserver.start.command",
    "A server for a Django site: HTTP, WebSockets, channels and the workers behind them.",
    "channelserver",
)
