"""What hosts share beside messages: sealed values, and leases of which one host has each.

Runs in the thread of the host's reactor; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channelserver.layers.redis import scripts
from channelserver.layers.redis.errors import RedisUnavailable
from channelserver.layers.redis.host import Host
from channelserver.layers.redis.seal import Sealer, SealError
from channelserver.layers.redis.shard import Shard


class RedisVault:
    """Values and leases in Redis.

    :param sealer: with keys, or values are not sealed.
    :param host: returns this process's place among others; None: it is not connected.
    """

    def __init__(self, sealer: Sealer, prefix: str, host: Callable[[], Host | None]) -> None:
        self._sealer = sealer
        self._prefix = prefix
        self._host = host

    @property
    def seals(self) -> bool:
        return self._sealer.encrypts

    async def ready(self) -> None:
        host = self._host()
        if host is not None and not host.tried:
            await host.when_tried()

    async def get(self, name: str) -> Any:
        data = await self._server(name).command("GET", self._key(name))
        try:
            _, items = self._sealer.unseal(data, ("vault", name).__eq__, None) if data else ((), [None])
        except SealError:
            return None  # with another key, or altered
        return items[0]

    async def put(self, name: str, value: Any, seconds: float) -> None:
        data = self._sealer.seal(("vault", name), value, seconds=seconds)
        await self._server(name).command("SET", self._key(name), data, "EX", max(1, int(seconds)))

    async def remove(self, name: str) -> None:
        await self._server(name).command("DEL", self._key(name))

    async def lease(self, name: str, owner: str, seconds: float) -> bool:
        answer = await self._server(name).run(scripts.LEASE, name, owner, int(seconds * 1000))
        return bool(answer)

    async def release(self, name: str, owner: str) -> None:
        await self._server(name).run(scripts.RELEASE, name, owner)

    def _key(self, name: str) -> str:
        return f"{self._prefix}vault:{name}"

    def _server(self, name: str) -> Shard:
        host = self._host()
        if host is None:
            raise RedisUnavailable("the layer is not open yet")
        return host.server_of(name)
