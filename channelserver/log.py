"""Where Channels 1 has :func:`setup_logger`: ``channels.log``."""

from __future__ import annotations

import logging

handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(module)s - %(message)s"))


def setup_logger(name: str, verbosity: int = 1) -> logging.Logger:
    """Have a logger write to the standard error stream, and to nowhere else.

    :param verbosity: above 1: also messages of the level DEBUG; else INFO and above.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    return logger
