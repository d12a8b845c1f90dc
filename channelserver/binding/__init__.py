"""Changes of models, sent to groups, and made by clients (Channels 1: ``channels.binding``).

Runs in any thread that uses the database; owns nothing.
"""

from channelserver.binding.base import Binding
from channelserver.binding.channels1 import CREATE, DELETE, UPDATE

__all__ = ["CREATE", "DELETE", "UPDATE", "Binding"]
