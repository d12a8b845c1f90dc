"""What hosts with one layer share beside messages. Plain Python; a layer for several hosts has a :class:`Vault`."""

from __future__ import annotations

from typing import Any, Protocol


class Vault(Protocol):
    """Values that outlive a host, and leases of which one host has each; for the reactor thread.

    Every call may raise a subclass of :class:`~channelserver.layers.ChannelFull`: the others cannot be reached.
    """

    @property
    def seals(self) -> bool:
        """Whether values are encrypted."""

    async def ready(self) -> None:
        """Wait for the first try to reach the others, if that is under way."""

    async def get(self, name: str) -> Any:
        """Return a value; None: there is none that can be read."""

    async def put(self, name: str, value: Any, seconds: float) -> None:
        """Keep a value for so long."""

    async def remove(self, name: str) -> None:
        """Remove a value."""

    async def lease(self, name: str, owner: str, seconds: float) -> bool:
        """Take a lease for so long, or extend it; return whether it is `owner`'s."""

    async def release(self, name: str, owner: str) -> None:
        """Give a lease back, if it is still `owner`'s."""
