"""The network side: listeners, connections, and the replies that reach them; owns every open connection.

Runs in the reactor thread, never runs application code and never waits.
May import the layers, the bridge and the processes; nothing of Django or of the Django side.
"""
