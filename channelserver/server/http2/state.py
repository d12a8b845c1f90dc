"""The state of an HTTP/2 connection as the package ``h2`` keeps it, set up for this server.

Runs in the reactor thread; owns nothing.
"""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from h2.settings import Settings as HTTP2Settings

from channelserver.server.common.options import Settings
from channelserver.server.http.body import BODY_IN_MESSAGE

#: Streams a client may have open.
MAX_STREAMS = 100
#: Bytes a client may send ahead, in a stream and in all. Bodies are spooled as they arrive, so these cost no memory.
STREAM_WINDOW, CONNECTION_WINDOW = 256 * 1024, 1024 * 1024
#: Bytes a client may send in a stream before the server has seen that the body needs a file.
FIRST_WINDOW = BODY_IN_MESSAGE
#: Bytes of the table of header fields sent, whatever the client allows (RFC 7541 section 4.2).
MAX_TABLE = 4096


class _State(H2Connection):
    """The state of a connection."""

    # So many ended streams are remembered, to tell late frames from wrong ones.
    MAX_CLOSED_STREAMS = 1000


def max_header_list(options: Settings) -> int:
    """Return the size of the largest request head as RFC 9113 section 6.5.2 counts it: 32 bytes more for each field."""
    return int(options.max_header_bytes + 32 * options.max_header_fields)


def new_state(max_header_list: int) -> H2Connection:
    """Return the state of a new connection, whose settings wait to be sent.

    :param max_header_list: the limit announced to the client; a head of more than twice as much ends the connection.
    """
    state = _State(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            # Requests are checked in head.py, where a bad one costs its stream only; answers in exchange.
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    state.local_settings = HTTP2Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_header_list,
            SettingCodes.INITIAL_WINDOW_SIZE: FIRST_WINDOW,
        },
    )
    state.decoder.max_header_list_size = 2 * max_header_list
    state.initiate_connection()
    state.increment_flow_control_window(CONNECTION_WINDOW - 65535)
    return state
