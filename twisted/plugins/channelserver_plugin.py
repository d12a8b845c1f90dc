"""Makes ``twistd channelserver`` known. No ``__init__.py`` here: this adds one module to Twisted's own package."""

import sys
from typing import Any

from twisted.application.service import ServiceMaker


class _ServiceMaker(ServiceMaker):
    """Twistd asks for the description when it lists its commands: also when an option before the command is wrong."""

    text = "A server for a Django site: HTTP, WebSockets, channels and the workers behind them."

    def __init__(self) -> None:
        self.name = self.tapname = "channelserver"
        self.module = "channelserver.start.twistd"

    @property
    def description(self) -> str:
        if self.tapname in sys.argv:
            from channelserver.start.parser import refuse_misplaced

            refuse_misplaced(sys.argv[1 : sys.argv.index(self.tapname)])
        return self.text

    @property
    def options(self) -> Any:
        """Twistd asks for the options of the command that it runs."""
        from channelserver.server.common.collector import look_seldom

        look_seldom()
        return super().options


channelserver = _ServiceMaker()
