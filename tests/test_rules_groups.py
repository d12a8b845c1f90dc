"""The rules about groups: everybody gets everything, memberships end when they should, slow readers (12 to 14)."""

from __future__ import annotations

import socket
import time
from typing import Any

from tests.lab import CLOSE, PING, LabTestCase, RawClient, close_code, open_sockets
from tests.process import TIMEOUT, project, wait_until

#: Far fewer than the members of the largest group in the tests.
SETTINGS = """
    CHANNEL_LAYERS["default"]["CONFIG"] = {"capacity": 20, "channel_capacity": {"hole": 1}}
"""


class GroupTestCase(LabTestCase):
    files = project("rules_groups")
    extra_settings = SETTINGS
    arguments = ("--ping-interval", "0")

    def ask(self, view: str, **parameters: Any) -> Any:
        """Ask a view, which answers with JSON."""
        return self.server.get(f"/{view}", params=parameters).json()

    def members(self, group: str) -> list[str]:
        """Return the members of a group."""
        names: list[str] = self.ask("members", group=group)["members"]
        return names


class GroupTests(GroupTestCase):
    """Rules 12 and 13."""

    def open(self, path: str) -> RawClient:
        """Open a socket, closed at the end of the test."""
        client = RawClient(self.server)
        self.addCleanup(client.close)
        return client.open(path)

    # -- rule 12 -------------------------------------------------------------------------------------------------------

    def test_rule_12_everybody_gets_everything(self) -> None:
        """However large the group, and however small the capacity: each member gets each message, in order."""
        clients = [self.open("/large/") for _ in range(200)]
        self.ask("send", group="large", text="{}", times=30)
        expected = [str(number) for number in range(30)]
        for client in clients:
            self.assertEqual([client.data() for _ in expected], expected)
        self.assertEqual(self.ask("lost"), {})

    def test_rule_12_from_a_consumer(self) -> None:
        """So it is with what a member sends to its own group."""
        clients = [self.open("/own/") for _ in range(20)]
        clients[0].send_frame(1, b"send")
        expected = [str(number) for number in range(20)]
        for client in clients:
            self.assertEqual([client.data() for _ in expected], expected)

    def test_rule_12_encoded_once_in_the_reactor(self) -> None:
        """The frame of a group send is made once, by the reactor thread, whatever the number of members."""
        clients = [self.open("/encoded/") for _ in range(30)]
        self.ask("send", group="encoded", text="only once")
        self.assertEqual([client.data() for client in clients], ["only once"] * 30)
        self.assertEqual([entry["thread"] for entry in self.diary("encoded", text="only once")], ["MainThread"])

    def test_rule_12_losses_are_counted_and_logged(self) -> None:
        """An ordinary channel may be a member; what it has no room for is counted and logged, and costs nobody else."""
        client = self.open("/lossy/")
        self.ask("join", group="lossy", channel="hole")
        self.ask("send", group="lossy", text="{}", times=4)
        self.assertEqual([client.data() for _ in range(4)], ["0", "1", "2", "3"])
        self.assertLogged(r"message\(s\) to 'hole' lost: channel full; .*group 'lossy'")
        self.assertEqual(self.ask("lost"), {"channel full": 3})

    def test_rule_12_requests_as_members(self) -> None:
        """A request that waits for its answer may be a member, too: a group's answer is its answer. What is meant for
        the sockets in the group is nothing to it, and costs them nothing.
        """
        with RawClient(self.server) as request:
            request.request("/wait?group=mixed")
            self.wait_for_note("waiting", group="mixed")
            client = self.open("/mixed/")
            self.ask("send", group="mixed", text="for the sockets")
            self.assertEqual(client.data(), "for the sockets")
        self.assertNoTraceback()
        with RawClient(self.server) as request:
            request.request("/wait?group=answered")
            self.wait_for_note("waiting", group="answered")
            client = self.open("/answered/")
            self.ask("answer", group="answered")
            self.assertEqual(request.head().status, 204)
            self.ask("send", group="answered", text="still here")
            self.assertEqual(client.data(), "still here")

    def test_rule_12_nobody_there(self) -> None:
        """A group without members is no error."""
        self.ask("send", group="empty", text="is there anybody?")
        self.assertNotRegex(self.log(), r" (WARNING (?!channelserver.check)|ERROR|CRITICAL) ")

    # -- rule 13 -------------------------------------------------------------------------------------------------------

    def assertMembershipEnds(self, path: str) -> None:
        """Assert that a path's only socket is no member any more, and that it was none when it learned of its end."""
        (entry,) = self.wait_for_note("disconnect", path=path)
        self.assertEqual((entry["before"], entry["after"]), (False, False))
        self.assertEqual(self.members(path.strip("/")), [])

    def test_rule_13_client_closes(self) -> None:
        """When the client has closed its socket, no group holds it, not even while its disconnect consumer runs; and it
        cannot be added any more.
        """
        with self.server.connect("/client-closes/"):
            self.assertEqual(len(self.members("client-closes")), 1)
        self.assertMembershipEnds("/client-closes/")

    def test_rule_13_client_vanishes(self) -> None:
        """A connection that ends without a close frame ends the membership just so."""
        client = self.open("/client-vanishes/")
        self.assertEqual(len(self.members("client-vanishes")), 1)
        client.close()
        self.assertMembershipEnds("/client-vanishes/")

    def test_rule_13_connection_is_reset(self) -> None:
        """So does one that is reset."""
        client = self.open("/reset/")
        self.assertEqual(len(self.members("reset")), 1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        client.close()
        self.assertMembershipEnds("/reset/")

    def test_rule_13_application_closes(self) -> None:
        """So does one that the application closes."""
        with self.server.connect("/application-closes/") as client:
            client.send("close")
            self.wait_for_note("disconnect", path="/application-closes/")
        self.assertMembershipEnds("/application-closes/")

    def test_rule_13_open_socket_stays(self) -> None:
        """An open socket stays a member, whatever others do."""
        with self.server.connect("/stays/") as client:
            with self.server.connect("/stays/"):
                self.assertEqual(len(self.members("stays")), 2)
            wait_until(lambda: len(self.members("stays")) == 1, "the other one's end")
            self.ask("send", group="stays", text="still here?")
            self.assertEqual(client.recv(TIMEOUT), "still here?")

    def test_rule_13_discard(self) -> None:
        """A membership ends at ``discard``, however often it was added, and may begin again."""
        with self.server.connect("/discard/") as client:
            for order, number in (("join", 1), ("leave", 0), ("join", 1), ("leave", 0)):
                noted = len(self.diary("received", path="/discard/"))
                client.send(order)
                self.wait_for_note("received", noted + 1, path="/discard/")
                self.assertEqual((order, len(self.members("discard"))), (order, number))
            self.ask("send", group="discard", text="not for you")
            client.send("join")
            self.wait_for_note("received", 5, path="/discard/")
            self.ask("send", group="discard", text="for you")
            self.assertEqual(client.recv(TIMEOUT), "for you")

    def test_rule_13_group_expiry(self) -> None:
        """A membership ends ``group_expiry`` seconds after the last ``add``; an open socket stays a member."""
        expiry = 2
        config = {"group_expiry": expiry}
        server = self.start(*self.arguments, extra_settings=f"CHANNEL_LAYERS['default']['CONFIG'] = {config}")
        with server.connect("/expiry/first/") as first:
            self.ask("join", group="expiry", channel="some-channel")
            joined = time.monotonic()
            members = self.members("expiry")
            if time.monotonic() < joined + expiry / 2:  # a busy machine may have taken longer
                self.assertEqual(len(members), 2)
            wait_until(lambda: len(self.members("expiry")) == 1, "the end of the channel's membership")
            self.assertGreaterEqual(time.monotonic(), joined + expiry / 2)
            self.ask("send", group="expiry", text="to the socket")
            self.assertEqual(first.recv(TIMEOUT), "to the socket")
        wait_until(lambda: self.members("expiry") == [], "the end of the socket's membership")


class SlowReaderTests(GroupTestCase):
    """Rule 14: who does not read, and who does not answer."""

    arguments = ("--send-buffer-bytes", "100000", "--ping-interval", "0")

    def test_rule_14_slow_reader(self) -> None:
        """A socket for which too much waits is closed with 1013, counted and logged with its path. The others of its
        group notice nothing.
        """
        size = 60_000
        slow = RawClient(self.server, receive_buffer=65536)
        self.addCleanup(slow.close)
        slow.open("/room/slow/")
        with open_sockets(self.server, ["/room/quick/", "/room/quick/"]) as others:
            sent = 0
            while "'/room/slow/': closed with 1013" not in self.server.output:
                self.assertLess(sent, 1000, "the slow reader is not given up")
                self.ask("send", group="room", text=f"{sent} ", size=size)
                for other in others:
                    self.assertEqual(str(other.recv(TIMEOUT)).split()[0], str(sent))
                sent += 1
            for other in others:
                other.send("leave")
            self.wait_for_note("received", 2, text="leave")
        self.assertGreater(self.ask("lost")["slow reader"], 0)
        # What was on its way arrives whole and in order, and then the close frame.
        received = 0
        while True:
            opcode, payload = slow.frame() or (0, b"")
            if opcode == CLOSE:
                break
            self.assertEqual((payload.split()[0], len(payload)), (str(received).encode(), size))
            received += 1
        self.assertEqual(close_code(payload), 1013)
        self.assertLess(received, sent)
        slow.send_frame(CLOSE, payload)
        slow.close()
        (entry,) = self.wait_for_note("disconnect", path="/room/slow/")
        self.assertEqual(entry["code"], 1013)

    def test_rule_14_slow_for_a_while(self) -> None:
        """Who reads again in time loses nothing, though more waits than the operating system holds."""
        self.start("--send-buffer-bytes", "50000000", "--ping-interval", "0")
        number, size = 120, 100_000
        slow = RawClient(self.server, receive_buffer=65536)
        self.addCleanup(slow.close)
        slow.open("/pausing/")
        with self.server.connect("/pausing/") as other:
            self.ask("send", group="pausing", text="{} ", size=size, times=number)
            for _ in range(number):
                other.recv(TIMEOUT)
        received = [str(slow.data()) for _ in range(number)]
        self.assertEqual([text.split()[0] for text in received], [str(index) for index in range(number)])
        self.assertEqual({len(text) for text in received}, {size})

    def test_rule_14_only_received_bytes_are_a_sign_of_life(self) -> None:
        """A client that does not answer pings is given up, however much is sent to it; who answers stays."""
        self.start("--ping-interval", "1", "--ping-timeout", "4", "--connect-timeout", "600")
        with RawClient(self.server) as silent, self.server.connect("/living/") as living:
            silent.open("/living/")
            ended = time.monotonic() + TIMEOUT
            pinged = False
            while True:
                self.assertLess(time.monotonic(), ended, "the silent client is not given up")
                self.ask("send", group="living", text="hello")
                self.assertEqual(living.recv(TIMEOUT), "hello")
                frame = silent.frame()
                if frame is None:
                    break
                pinged = pinged or frame[0] == PING
            self.assertTrue(pinged)
            self.ask("send", group="living", text="still there?")
            self.assertEqual(living.recv(TIMEOUT), "still there?")
