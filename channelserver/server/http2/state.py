"""The state of an HTTP/2 connection as the package ``h2`` keeps it, set up for this server.

Runs in the reactor thread; owns nothing.
"""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

#: Streams a client may have open.
MAX_STREAMS = 100
#: Bytes of header fields in a request, as RFC 9113 section 6.5.2 counts them.
MAX_HEADER_LIST = 32 * 1024
#: Bytes a client may send ahead, in a stream and in all. They are put away as they come, so these cost no memory.
STREAM_WINDOW, CONNECTION_WINDOW = 256 * 1024, 1024 * 1024
#: Bytes of the table of header fields sent, whatever the client allows (RFC 7541 section 4.2).
MAX_TABLE = 4096


class _State(H2Connection):
    """The state of a connection."""

    # So many ended streams are remembered, to tell late frames from wrong ones.
    MAX_CLOSED_STREAMS = 1000


def new_state() -> H2Connection:
    """Return the state of a new connection, whose settings wait to be sent."""
    state = _State(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            # Requests are checked in http2_head, where a bad one costs its stream only; answers in exchange.
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    state.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        },
    )
    state.decoder.max_header_list_size = MAX_HEADER_LIST
    state.initiate_connection()
    state.increment_flow_control_window(CONNECTION_WINDOW - 65535)
    return state
