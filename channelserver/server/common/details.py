"""Log lines for somebody who looks for a fault: there are many of them, so they are written only if asked for.

Runs in the reactor thread; owns nothing. They are asked for with Django's setting ``LOGGING``: level ``DEBUG`` for the
logger ``channelserver``, or for a part of it such as ``channelserver.server.replies``.
"""

from __future__ import annotations

import logging
from typing import Any

from twisted.logger import Logger


def log_detail(log: Logger, text: str, **values: Any) -> None:
    """Log at level debug, if that is wanted.

    :param text: with the names of `values` in braces.
    """
    if logging.getLogger(log.namespace).isEnabledFor(logging.DEBUG):
        log.debug(text, **values)
