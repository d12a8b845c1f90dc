"""The WebSocket cases of the Autobahn test suite, against a running server.

They are driven by kosoku, which is a program of its own; ``tox -e conformance`` installs it.
"""
