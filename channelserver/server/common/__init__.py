"""What all protocols share: options, timers, logs, admission, sending and listening; owns no connection.

Runs in the reactor thread (``options`` in any).
May import the layers, the bridge and the processes; nothing of the protocols' rooms.
"""
