"""What is kept for each client is entered into its account; when all clients together have too much, the largest go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.account import CONNECTION_BYTES, FLOOR, SMALL, Account, ClientMemory
from channelserver.server.common.machine import memory_of_machine
from channelserver.server.common.options import resolve
from channelserver.server.common.wheel import Wheel

LIMIT = 1_000_000
BASE = 1000


class Connection:
    """Holds what the test says."""

    def __init__(self, memory: ClientMemory) -> None:
        self.holds = BASE
        self.evicted = 0
        self.frames: list[bytes] = []
        self.account = Account(memory, self, BASE)

    def kept(self) -> int:
        return self.holds

    def hold(self, size: int) -> Connection:
        self.holds = BASE + size
        self.account.weigh()
        return self

    def share(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.account.share(frame)

    def drop(self) -> None:
        while self.frames:
            self.account.unshare(self.frames.pop())

    def evict(self, size: int) -> None:
        self.evicted = size
        self.drop()


class AccountTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.posted: list[Callable[[], object]] = []
        self.memory = ClientMemory(LIMIT, Wheel(self.clock), self.posted.append)

    def connect(self) -> Connection:
        return Connection(self.memory)

    def turn(self) -> None:
        """Let the reactor do what was posted."""
        posted, self.posted[:] = self.posted[:], []
        for function in posted:
            function()

    def test_sum(self) -> None:
        """The sum is that of all accounts; a closed one counts no longer, whatever it still enters."""
        first, second = self.connect().hold(50_000), self.connect().hold(100)
        self.assertEqual(self.memory.bytes, 2 * BASE + 50_100)
        first.account.enter(-20_000)
        self.assertEqual(self.memory.bytes, 2 * BASE + 30_100)
        first.account.close()
        first.account.enter(7)
        first.hold(1_000_000)
        first.account.close()
        self.assertEqual(self.memory.bytes, BASE + 100)
        self.assertEqual((first.account.bytes, first.account in self.memory.watched), (0, False))
        second.account.close()
        self.assertEqual(self.memory.bytes, 0)

    def test_weighed_again(self) -> None:
        """Whoever holds much is weighed each second, until it holds little; nobody else is, and no timer runs."""
        connection = self.connect().hold(SMALL)
        self.assertEqual((self.memory.watched, self.clock.calls), (set(), []))
        connection.hold(SMALL + 1)
        connection.holds = BASE + 9000
        self.clock.advance(1.5)
        self.assertEqual(self.memory.bytes, BASE + 9000)
        connection.holds = BASE
        self.clock.advance(1.5)
        self.assertEqual((self.memory.bytes, self.memory.watched), (BASE, set()))
        self.clock.advance(1.5)
        self.assertEqual(self.clock.calls, [])

    def test_full(self) -> None:
        """A connection has its own limit."""
        connection = self.connect().hold(CONNECTION_BYTES - BASE)
        self.assertFalse(connection.account.full)
        connection.account.enter(1)
        self.assertTrue(connection.account.full)

    def test_shared(self) -> None:
        """A frame that waits for several connections counts once in the sum, and for each in its account."""
        frame, equal = bytes(range(200)), bytes(range(200))
        first, second = self.connect(), self.connect()
        for connection, data in ((first, frame), (second, frame), (second, equal), (first, frame)):
            connection.share(data)
        self.assertEqual(self.memory.bytes, 2 * BASE + 400)
        self.assertEqual((first.account.shared, second.account.shared), (400, 400))
        first.drop()
        self.assertEqual((self.memory.bytes, first.account.shared), (2 * BASE + 400, 0))
        second.account.close()
        second.drop()  # a connection closes its account first
        self.assertEqual(self.memory.bytes, BASE)

    def test_largest_go(self) -> None:
        """When 7/10 are in use the largest are closed, in the reactor's next turn, until 3/5 are."""
        small = [self.connect().hold(50_000) for _ in range(6)]
        large = [self.connect().hold(size) for size in (150_000, 200_000)]
        self.assertEqual(self.posted, [])
        last = self.connect().hold(50_000)
        self.assertEqual([connection.evicted for connection in large], [0, 0])
        self.turn()
        self.assertEqual([connection.evicted for connection in large], [0, BASE + 200_000])
        self.assertEqual({connection.evicted for connection in (*small, last)}, {0})
        self.assertEqual(self.memory.bytes, 8 * BASE + 300_000 + 150_000 + 50_000)
        self.assertTrue(self.memory.has_room())

    def test_fresh_figures(self) -> None:
        """Nobody is closed without being weighed again."""
        connections = [self.connect().hold(90_000) for _ in range(9)]
        for connection in connections:
            connection.holds = BASE
        self.connect().hold(90_000)
        self.turn()
        self.assertEqual({connection.evicted for connection in connections}, {0})
        self.assertTrue(self.memory.has_room())

    def test_shared_go(self) -> None:
        """What the largest share with nobody is free again."""
        slow, idle = self.connect(), [self.connect() for _ in range(3)]
        slow.share(bytes(880_000))
        self.turn()
        self.assertEqual(slow.evicted, BASE + 880_000)
        self.assertEqual((self.memory.bytes, [connection.evicted for connection in idle]), (3 * BASE, [0, 0, 0]))

    def test_no_room(self) -> None:
        """If everybody holds little, nobody is closed, and new requests find no room; the next look comes later."""
        connections = [self.connect().hold(FLOOR) for _ in range(60)]
        self.turn()
        self.assertFalse(self.memory.has_room())
        self.assertEqual({connection.evicted for connection in connections}, {0})
        for connection in connections[:25]:
            connection.holds = BASE
        self.assertFalse(self.memory.has_room())
        self.clock.advance(0.2)
        self.assertTrue(self.memory.has_room())

    def test_figures(self) -> None:
        self.connect().hold(20_000)
        self.connect().hold(10)
        self.assertEqual(self.memory.figures(), {"used": 2 * BASE + 20_010, "limit": LIMIT, "largest": BASE + 20_000})


class MachineTests(SynchronousTestCase):
    """``--client-memory`` is a quarter of what the machine or the container has."""

    def setUp(self) -> None:
        self.machine = memory_of_machine(Path("/nowhere"), Path("/nowhere"))
        self.folder = Path(self.mktemp())
        self.own = self.folder / "own"

    def test_machine(self) -> None:
        self.assertGreater(self.machine, 1 << 26)
        self.assertEqual(resolve({}, {"client_memory": 5_000_000}).client_memory, 5_000_000)
        self.assertLessEqual(resolve({}, {}).client_memory, self.machine // 4)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_version_2(self) -> None:
        """The smallest limit on the way up counts."""
        self.folder.mkdir(parents=True)
        self.own.write_text("0::/a/b\n")
        self.assertEqual(memory_of_machine(self.folder, self.own), self.machine)
        self.write("a/b/memory.max", "max\n")
        self.assertEqual(memory_of_machine(self.folder, self.own), self.machine)
        self.write("a/memory.max", "1000000\n")
        self.assertEqual(memory_of_machine(self.folder, self.own), 1_000_000)

    def test_own_name_space(self) -> None:
        """Within a container the group's path may be that of the machine; the limit stands at the top."""
        self.write("memory.max", "2000000\n")
        self.own.write_text("0::/../../elsewhere\n")
        self.assertEqual(memory_of_machine(self.folder, self.own), 2_000_000)

    def test_version_1(self) -> None:
        self.write("memory/a/memory.limit_in_bytes", "3000000\n")
        self.own.write_text("3:cpuset:/\n4:cpu,memory:/a\n0::/\n")
        self.assertEqual(memory_of_machine(self.folder, self.own), 3_000_000)
