"""What others expect of the server, checked by their programs: the Autobahn test suite, testssl, h2load, curl.

The WebSocket cases are driven by kosoku, which ``tox -e conformance`` installs; the other programs are Debian packages
(``testssl.sh``, ``nghttp2-client``, ``curl``).
"""
