"""Random faults under load, and at the end a ledger: what was sent = what was received + what was counted as lost.

:mod:`.hosts` starts the servers, :mod:`.clients` and ``project/sender.py`` make the load, :mod:`.faults` kills, stops,
cuts and fills, :mod:`.ledger` adds up. ``project`` is the site: its consumers write down what they get, each process
in a file of its own.
"""
