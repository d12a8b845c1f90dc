"""Worker threads: they take messages from the layer and run consumers and Django views; owns the pool and the outbox.

Runs in the worker threads (the pool's set-up and end in the reactor thread). Never touches a transport or a protocol.
May import the layer, the bridge and the modules that projects import; nothing of ``start``.
"""
