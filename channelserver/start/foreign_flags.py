"""Flags of gunicorn, uvicorn, daphne and granian: what they are called here, or why nobody needs them.

Read by the parser; owns nothing.
"""

from __future__ import annotations

#: Understood, with a line in the log that names the option.
SYNONYMS = {
    "--host": "bind",
    "--workers": "processes",
    "--ssl-certfile": "tls_cert",
    "--certfile": "tls_cert",
    "--ssl-keyfile": "tls_key",
    "--keyfile": "tls_key",
    "--uds": "unix_socket",
    "--chdir": "pythonpath",
    "--app-dir": "pythonpath",
    "--forwarded-allow-ips": "trust_proxy",
    "--access-logfile": "access_log",
    "--timeout-keep-alive": "keep_alive",
    "--timeout-graceful-shutdown": "drain_timeout",
    "--graceful-timeout": "drain_timeout",
    "--limit-concurrency": "max_connections",
    "--worker-connections": "max_connections",
    "--limit-request-fields": "max_header_fields",
    "--ws-max-size": "max_message_bytes",
    "--ws-ping-interval": "ping_interval",
    "--ws-ping-timeout": "ping_timeout",
}

_FOREGROUND = "channelserver serve stays in the foreground and writes no pid file; twistd channelserver makes a daemon"
_OWN = "channelserver has one kind of worker and one event loop; leave it out"
_PROXY = "name the proxies with --trust-proxy"
_HEAD = "use --max-header-bytes"
_TIMEOUT = "use --http-timeout"
_USER = "name the user in the systemd unit, or use twistd --uid and --gid"
_CONFIG = "use the setting CHANNELSERVER, or variables of the environment"
_SERVER = "channelserver sends no field Server; leave it out"
_LEVEL = "use --log-level"

#: Refused, each with the cure.
NOT_NEEDED = {
    "-n": "channelserver serve always stays in the foreground; leave it out",
    "--nodaemon": "channelserver serve always stays in the foreground; leave it out",
    "-D": _FOREGROUND,
    "--daemon": _FOREGROUND,
    "--pid": _FOREGROUND,
    "--pidfile": _FOREGROUND,
    "--logfile": "use --access-log, or send the output to a file",
    "-k": _OWN,
    "-w": "use --processes",
    "--worker-class": _OWN,
    "--interface": "channelserver finds out by itself whether a view is asynchronous; leave it out",
    "--loop": _OWN,
    "--http": "channelserver speaks HTTP/1.1, and HTTP/2 over TLS; leave it out",
    "--ws": "WebSockets are part of the server; leave it out",
    "--factory": "channelserver runs Django itself; use --app mysite.wsgi or --settings",
    "--proxy-headers": _PROXY,
    "--proxy-headers-host": _PROXY,
    "--proxy-headers-port": _PROXY,
    "--timeout": _TIMEOUT,
    "-t": _TIMEOUT,
    "-c": _CONFIG,
    "--config": _CONFIG,
    "--preload": "the processes import the site in parallel; leave it out",
    "--user": _USER,
    "--group": _USER,
    "--limit-request-line": _HEAD,
    "--limit-request-field_size": _HEAD,
    "--error-logfile": "errors go to the log and to the setting LOGGING; leave it out",
    "--no-access-log": "use --access-log ''",
    "--log-fmt": "use --log-format or --access-format",
    "--statsd-host": "use the figures of the health check",
    "--lifespan": "use the signals server_started and server_stopping; leave it out",
    "--ws-per-message-deflate": "use --compression",
    "--websocket_timeout": "a WebSocket lasts as long as its client answers pings; leave it out",
    "--websocket_connect_timeout": "use --connect-timeout",
    "--application-close-timeout": "use --drain-timeout",
    "--server-name": _SERVER,
    "--no-server-name": _SERVER,
    "-v": _LEVEL,
    "--verbosity": _LEVEL,
    "--daemonize": _FOREGROUND,
}
