"""One layer, many processes: siblings, ``runworker``, and everybody who sends through the local socket.

Runs in the reactor thread (``local_client`` in any thread that sends); owns the links between processes.
May import the layers and the bridge; nothing of the server or of the Django side.
"""
