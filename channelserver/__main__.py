"""``python -m channelserver``: the command ``channelserver``."""

from channelserver.start.cli import main

main()
