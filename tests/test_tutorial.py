"""Every example of the Channels 1 tutorial "Getting Started" runs as printed, under both servers, with real clients.

The texts of the examples below are the tutorial's own, imports included. Where the printed text cannot run, the few
words that are put right stand beside it. The project is laid out as the tutorial has it: ``myproject`` with the
application ``myproject.myapp``, settings as ``startproject`` writes them, and ``channels`` among the applications.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until

# -- the tutorial's texts ----------------------------------------------------------------------------------------------

LAYERS_IN_SETTINGS = """
# In settings.py
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgiref.inmemory.ChannelLayer",
        "ROUTING": "myproject.routing.channel_routing",
    },
}
"""

HTTP_CONSUMER = """
from django.http import HttpResponse
from channels.handler import AsgiHandler

def http_consumer(message):
    # Make standard HTTP response - access ASGI path attribute directly
    response = HttpResponse("Hello world! You asked for %s" % message.content['path'])
    # Encode that response into message format (ASGI)
    for chunk in AsgiHandler.encode_response(response):
        message.reply_channel.send(chunk)
"""

HTTP_ROUTING = """
# In routing.py
channel_routing = {
    "http.request": "myproject.myapp.consumers.http_consumer",
}
"""

ECHO_CONSUMER = """
# In consumers.py
from channels import Group

def ws_message(message):
    # ASGI WebSocket packet-received and send-packet message types
    # both have a "text" key for their textual data.
    message.reply_channel.send({
        "text": message.content['text'],
    })
"""

ECHO_ROUTING = """
# In routing.py
from myproject.myapp.consumers import ws_message

channel_routing = {
    "websocket.receive": ws_message,
}
"""

CHAT_CONSUMERS = """
# In consumers.py
from channels import Group

# Connected to websocket.connect
def ws_add(message):
    Group("chat").add(message.reply_channel)

# Connected to websocket.receive
def ws_message(message):
    Group("chat").send({
        "text": "[user] %s" % message.content['text'],
    })

# Connected to websocket.disconnect
def ws_disconnect(message):
    Group("chat").discard(message.reply_channel)
"""

CHAT_ROUTING = """
from myproject.myapp.consumers import ws_add, ws_message, ws_disconnect

channel_routing = {
    "websocket.connect": ws_add,
    "websocket.receive": ws_message,
    "websocket.disconnect": ws_disconnect,
}
"""

ROOM_CONSUMERS = """
# In consumers.py
from channels import Group
from channels.sessions import channel_session

# Connected to websocket.connect
@channel_session
def ws_connect(message):
    # Work out room name from path (ignore slashes)
    room = message.content['path'].strip("/")
    # Save room in session and add us to the group
    message.channel_session['room'] = room
    Group("chat-%s" % room).add(message.reply_channel)

# Connected to websocket.receive
@channel_session
def ws_message(message):
    Group("chat-%s" % message.channel_session['room']).send(message.content)

# Connected to websocket.disconnect
@channel_session
def ws_disconnect(message):
    Group("chat-%s" % message.channel_session['room']).discard(message.reply_channel)
"""

FIRST_LETTER_CONSUMERS = """
# In consumers.py
from channels import Channel, Group
from channels.sessions import channel_session
from channels.auth import http_session_user, channel_session_user, transfer_user

# Connected to websocket.connect
@channel_session_user_from_http
def ws_add(message):
    # Copy user from HTTP to channel session
    transfer_user(message.http_session, message.channel_session)
    # Add them to the right group
    Group("chat-%s" % message.user.username[0]).add(message.reply_channel)

# Connected to websocket.receive
@channel_session_user
def ws_message(message):
    Group("chat-%s" % message.user.username[0]).send(message.content)

# Connected to websocket.disconnect
@channel_session_user
def ws_disconnect(message):
    Group("chat-%s" % message.user.username[0]).discard(message.reply_channel)
"""

#: The printed import forgets the decorator that the example uses.
FIRST_LETTER_SLIPS = {
    "channel_session_user, transfer_user": "channel_session_user, channel_session_user_from_http, transfer_user"
}

MODEL_CONSUMERS = """
# In consumers.py
from channels import Channel
from channels.sessions import channel_session
from .models import ChatMessage

# Connected to chat-messages
def msg_consumer(message):
    # Save to model
    ChatMessage.objects.create(
        room=message.content['room'],
        message=message.content['message'],
    )
    # Broadcast to listening sockets
    Group("chat-%s" % room).send({
        "content": message.content['message'],
    })

# Connected to websocket.connect
@channel_session
def ws_connect(message):
    # Work out room name from path (ignore slashes)
    room = message.content['path'].strip("/")
    # Save room in session and add us to the group
    message.channel_session['room'] = room
    Group("chat-%s" % room).add(message.reply_channel)

# Connected to websocket.receive
@channel_session
def ws_message(message):
    # Stick the message onto the processing queue
    Channel("chat-messages").send({
        "room": channel_session['room'],
        "message": content,
    })

# Connected to websocket.disconnect
@channel_session
def ws_disconnect(message):
    Group("chat-%s" % message.channel_session['room']).discard(message.reply_channel)
"""

#: Printed are three names that are not defined, a missing import, and a key that sockets do not know.
MODEL_SLIPS = {
    "import Channel\n": "import Channel, Group\n",
    '"chat-%s" % room).send({\n        "content":': '"chat-%s" % message.content["room"]).send({\n        "text":',
    '"room": channel_session': '"room": message.channel_session',
    '"message": content,': '"message": message.content["text"],',
}

SLIGHT_ORDER_CONSUMERS = """
# In consumers.py
from channels import Channel, Group
from channels.sessions import channel_session, enforce_ordering
from channels.auth import http_session_user, channel_session_user, channel_session_user_from_http

# Connected to websocket.connect
@enforce_ordering(slight=True)
@channel_session_user_from_http
def ws_add(message):
    # Add them to the right group
    Group("chat-%s" % message.user.username[0]).add(message.reply_channel)

# Connected to websocket.receive
@enforce_ordering(slight=True)
@channel_session_user
def ws_message(message):
    Group("chat-%s" % message.user.username[0]).send(message.content)

# Connected to websocket.disconnect
@enforce_ordering(slight=True)
@channel_session_user
def ws_disconnect(message):
    Group("chat-%s" % message.user.username[0]).discard(message.reply_channel)
"""

STRICT_ORDER_CONSUMER = """
@enforce_ordering
def ws_message(message):
    ...
"""

# -- what the tutorial leaves to its reader ----------------------------------------------------------------------------

ROOM_ROUTING = CHAT_ROUTING.replace("ws_add", "ws_connect")

MODEL_ROUTING = """
from myproject.myapp.consumers import msg_consumer, ws_connect, ws_message, ws_disconnect

channel_routing = {
    "chat-messages": msg_consumer,
    "websocket.connect": ws_connect,
    "websocket.receive": ws_message,
    "websocket.disconnect": ws_disconnect,
}
"""

#: In place of the dots of the strict example: the first messages take so long that others would overtake them if they
#: could.
STRICT_ORDER_BODY = """
    number = int(message.content["text"])
    while number % 1000 == 0 and not os.path.exists("go"):
        time.sleep(0.01)
    with open("consumed.txt", "a") as stream:
        stream.write("%d\\n" % number)
    message.reply_channel.send({"text": "seen %d" % number})
"""

PROJECT = project("tutorial")
PROJECT["myproject/settings.py"] += LAYERS_IN_SETTINGS
PROJECT["myproject/myapp/templates/page.html"] = """
A plain page. {{ request.user.username }} {{ request.session.session_key }}
"""

USERS = """
from django.contrib.auth.models import User
for name in ("ada", "adam", "bob"):
    User.objects.create_user(name)
"""


@functools.cache
def made_project() -> Path:
    """Return a folder with the project, its tables made and its users in them; made once, to be copied."""
    folder = Path(tempfile.mkdtemp(prefix="channelserver-tutorial-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def corrected(printed: str, slips: dict[str, str]) -> str:
    """Return a printed text with its slips put right."""
    for wrong, right in slips.items():
        assert printed.count(wrong) == 1, wrong
        printed = printed.replace(wrong, right)
    return printed


def received(socket: ClientConnection, number: int) -> list[Any]:
    """Return the next `number` messages a client gets."""
    return [socket.recv(TIMEOUT) for _ in range(number)]


class Examples:
    """The examples, one after the other; the two classes at the end run them."""

    def setUp(self) -> None:
        """Copy the project. It is made with the first test."""
        super().setUp()
        for name in ("settings.py", "routing.py", "urls.py"):
            (self.folder / name).unlink()
        made = made_project()
        if not (made / "db.sqlite3").exists():
            self.write(PROJECT)
            self.manage("makemigrations", "myapp", "--verbosity", "0")
            self.manage("migrate", "--verbosity", "0")
            self.manage("shell", "--verbosity", "0", "--command", USERS)
            shutil.copytree(self.folder, made, dirs_exist_ok=True)
        else:
            shutil.copytree(made, self.folder, dirs_exist_ok=True)

    def serve(self) -> Server:
        """Start the server."""
        raise NotImplementedError

    def example(self, routing: str, consumers: str) -> Server:
        """Start the server with an example's routing and consumers."""
        self.write({"myproject/routing.py": routing, "myproject/myapp/consumers.py": consumers})
        return self.serve()

    def assert_plain_view(self, server: Server) -> None:
        """Assert that Django's views answer requests, as they do where no consumer is routed for ``http.request``."""
        answer = server.get("/")
        self.assertEqual((answer.status_code, answer.text.strip()), (200, "A plain page.  None"))
        self.assertEqual(server.get("/nowhere/").status_code, 404)

    def log_in(self, server: Server, name: str) -> str:
        """Log a user in, as a browser does; return the session's key, which is its cookie."""
        answer = server.get(f"/login/{name}/")
        self.assertEqual(answer.text, f"Welcome, {name}")
        return str(answer.cookies["sessionid"])

    # -- First Consumers -----------------------------------------------------------------------------------------------

    def test_http_consumer_instead_of_the_views(self) -> None:
        """A consumer routed for ``http.request`` answers every request, whatever path and method."""
        server = self.example(HTTP_ROUTING, HTTP_CONSUMER)
        answer = server.get("/")
        self.assertEqual((answer.status_code, answer.text), (200, "Hello world! You asked for /"))
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(server.get("/nowhere/?a=b").text, "Hello world! You asked for /nowhere/")
        self.assertEqual(server.get("/caf%C3%A9%20au%20lait").text, "Hello world! You asked for /café au lait")
        self.assertEqual(server.post("/login/ada/", data={"x": "y"}).text, "Hello world! You asked for /login/ada/")
        # Sockets are accepted where nothing is routed for them.
        with server.connect("/chat/") as socket:
            socket.send("nobody listens")
            self.assertEqual(server.get("/still").text, "Hello world! You asked for /still")

    def test_echo(self) -> None:
        """What a client sends comes back to it, on whatever path, and to nobody else."""
        server = self.example(ECHO_ROUTING, ECHO_CONSUMER)
        with server.connect("/chat/") as socket, server.connect("/elsewhere") as other:
            socket.send("hello world")
            self.assertEqual(socket.recv(TIMEOUT), "hello world")
            socket.send("ünïcödé ☃")
            socket.send("")
            self.assertEqual(received(socket, 2), ["ünïcödé ☃", ""])
            other.send("mine")
            self.assertEqual(other.recv(TIMEOUT), "mine")
        self.assert_plain_view(server)

    # -- Groups --------------------------------------------------------------------------------------------------------

    def test_group_chat(self) -> None:
        """Whatever anyone says reaches everyone in the chat; who has left gets nothing, and the others go on."""
        server = self.example(CHAT_ROUTING, CHAT_CONSUMERS)
        with ExitStack() as stack:
            first, second, third, leaver = everyone = [stack.enter_context(server.connect("/chat/")) for _ in range(4)]
            first.send("hello world")
            for socket in everyone:
                self.assertEqual(socket.recv(TIMEOUT), "[user] hello world")
            leaver.send("good-bye")
            for socket in everyone:
                self.assertEqual(socket.recv(TIMEOUT), "[user] good-bye")
            leaver.close()
            second.send("has it left?")
            third.send("it has")
            for socket in (first, second, third):
                self.assertEqual(set(received(socket, 2)), {"[user] has it left?", "[user] it has"})
            self.assertRaises(ConnectionClosed, leaver.recv, TIMEOUT)
            late = stack.enter_context(server.connect("/chat/"))
            late.send("I am new")
            for socket in (first, second, third, late):
                self.assertEqual(socket.recv(TIMEOUT), "[user] I am new")
            self.assert_plain_view(server)
        self.assertNotIn("Traceback", server.output)

    # -- Persisting Data -----------------------------------------------------------------------------------------------

    def test_rooms(self) -> None:
        """The path names a room, kept in the channel session; what is said in a room stays in it."""
        server = self.example(ROOM_ROUTING, ROOM_CONSUMERS)
        with (
            server.connect("/kitchen/") as cook,
            server.connect("/kitchen/") as guest,
            server.connect("/garden") as gardener,
        ):
            for number in range(3):
                cook.send(f"soup {number}")
            gardener.send("roses")
            for socket in (cook, guest):
                self.assertEqual(received(socket, 3), ["soup 0", "soup 1", "soup 2"])
            self.assertEqual(gardener.recv(TIMEOUT), "roses")
            guest.send(b"\x00binary\xff")
            for socket in (cook, guest):
                self.assertEqual(socket.recv(TIMEOUT), b"\x00binary\xff")
            guest.close()
            cook.send("alone")
            gardener.send("tulips")
            # Had the other room's words leaked, they would have come before these.
            self.assertEqual(cook.recv(TIMEOUT), "alone")
            self.assertEqual(gardener.recv(TIMEOUT), "tulips")
        self.assert_plain_view(server)
        self.assertNotIn("Traceback", server.output)

    # -- Authentication ------------------------------------------------------------------------------------------------

    def test_first_letter_chat(self) -> None:
        """Users chat with those whose name begins with the same letter. They are known by the browser's cookie, or by
        the key of their session in the URL.
        """
        consumers = corrected(FIRST_LETTER_CONSUMERS, FIRST_LETTER_SLIPS)
        self.first_letter_chat(self.example(CHAT_ROUTING, consumers))

    def first_letter_chat(self, server: Server) -> None:
        ada, adam, bob = (self.log_in(server, name) for name in ("ada", "adam", "bob"))
        # The key that the tutorial has a template print.
        page = server.get("/", cookies={"sessionid": adam}).text.split()
        self.assertEqual(page, ["A", "plain", "page.", "adam", adam])
        with (
            server.connect("/", additional_headers={"Cookie": f"other=1; sessionid={ada}"}) as ada_socket,
            server.connect(f"/?session_key={adam}") as adam_socket,
            server.connect("/chat/", additional_headers={"Cookie": f"sessionid={bob}"}) as bob_socket,
        ):
            ada_socket.send("from ada")
            self.assertEqual([ada_socket.recv(TIMEOUT), adam_socket.recv(TIMEOUT)], ["from ada"] * 2)
            adam_socket.send("from adam")
            self.assertEqual([ada_socket.recv(TIMEOUT), adam_socket.recv(TIMEOUT)], ["from adam"] * 2)
            bob_socket.send("from bob")
            self.assertEqual(bob_socket.recv(TIMEOUT), "from bob")
            # Whatever went astray would be read before this.
            ada_socket.send("the end")
            self.assertEqual(ada_socket.recv(TIMEOUT), "the end")
        self.assertNotIn("Traceback", server.output)
        # Nobody has no first letter: the example fails, and the client hears of that, not of a handshake timeout (403).
        for path in ("/", "/?session_key=abcdefg"):
            with self.assertRaises(InvalidStatus) as caught, server.connect(path):
                self.fail("an anonymous user was let in")
            self.assertEqual(caught.exception.response.status_code, 500)
        server.wait_for(r"IndexError")
        self.assert_plain_view(server)

    # -- Models --------------------------------------------------------------------------------------------------------

    def test_models_and_a_custom_channel(self) -> None:
        """Messages travel through a channel of the project's own, are saved as rows, and reach their room. A view
        may send to that channel as well.
        """
        server = self.example(MODEL_ROUTING, corrected(MODEL_CONSUMERS, MODEL_SLIPS))
        with server.connect("/abc/") as first, server.connect("/abc") as second, server.connect("/xyz/") as other:
            first.send("hello")
            for socket in (first, second):
                self.assertEqual(socket.recv(TIMEOUT), "hello")
            # The row was saved before the broadcast left.
            self.assertEqual(server.get("/messages/").json(), [["abc", "hello"]])
            other.send("anybody?")
            self.assertEqual(other.recv(TIMEOUT), "anybody?")
            self.assertEqual(server.get("/say/abc/from-the-bot/").text, "Said.")
            for socket in (first, second):
                self.assertEqual(socket.recv(TIMEOUT), "from-the-bot")
            self.assertEqual(
                server.get("/messages/").json(), [["abc", "hello"], ["xyz", "anybody?"], ["abc", "from-the-bot"]]
            )
        self.assert_plain_view(server)
        self.assertNotIn("Traceback", server.output)

    # -- Enforcing Ordering --------------------------------------------------------------------------------------------

    def test_slight_ordering(self) -> None:
        """The first-letter chat with slight ordering. Here it is as good as strict: 50 messages sent at once are
        answered in order.
        """
        server = self.example(CHAT_ROUTING, SLIGHT_ORDER_CONSUMERS)
        key = self.log_in(server, "ada")
        with server.connect(f"/?session_key={key}") as listener, server.connect(f"/?session_key={key}") as speaker:
            for number in range(50):
                speaker.send(str(number))
            for socket in (speaker, listener):
                self.assertEqual(received(socket, 50), [str(number) for number in range(50)])
        self.first_letter_chat(server)

    def test_strict_ordering(self) -> None:
        """Messages are consumed strictly one after the other, in the order in which they were sent."""
        text = "import os\nimport time\nfrom channels.sessions import enforce_ordering\n" + STRICT_ORDER_CONSUMER
        server = self.example(ECHO_ROUTING, corrected(text, {"\n    ...\n": STRICT_ORDER_BODY}))
        with server.connect("/chat/") as socket, server.connect("/chat/") as other:
            for number in range(50):
                socket.send(str(number))
                other.send(str(1000 + number))
            self.assert_plain_view(server)  # threads are free
            (self.folder / "go").touch()
            self.assertEqual(received(socket, 50), [f"seen {number}" for number in range(50)])
            self.assertEqual(received(other, 50), [f"seen {1000 + number}" for number in range(50)])
        consumed = [int(line) for line in (self.folder / "consumed.txt").read_text().split()]
        self.assertEqual([number for number in consumed if number < 1000], list(range(50)))
        self.assertEqual([number for number in consumed if number >= 1000], list(range(1000, 1050)))
        self.assert_plain_view(server)

    def test_strict_ordering_as_printed(self) -> None:
        """The strict example with the dots for its body: it takes the messages, and says nothing."""
        consumers = "from channels.sessions import enforce_ordering\n" + STRICT_ORDER_CONSUMER
        server = self.example(ECHO_ROUTING, consumers)
        with server.connect("/chat/") as socket:
            for number in range(50):
                socket.send(str(number))
            socket.close()
            # Closed by the client, and nothing else has come.
            self.assertRaises(ConnectionClosed, socket.recv, TIMEOUT)
        self.assert_plain_view(server)
        self.assertNotIn("Traceback", server.output)


class TwistdTutorialTests(Examples, ServerTestCase):
    """The examples under ``twistd channelserver``."""

    def serve(self) -> Server:
        """Start ``twistd channelserver``."""
        arguments = ("--settings", "myproject.settings", "--port", "0", "--log-format", "text")
        return self.run_process(self.twistd(*arguments)).wait_until_up()


class RunserverTutorialTests(Examples, ServerTestCase):
    """The examples under ``manage.py runserver``."""

    def serve(self) -> Server:
        """Start ``manage.py runserver``."""
        return self.runserver()

    def test_with_the_autoreloader(self) -> None:
        """``manage.py runserver`` without further options, as the tutorial types it, runs what the code says after a
        change to it.
        """
        self.write({"myproject/routing.py": ECHO_ROUTING, "myproject/myapp/consumers.py": ECHO_CONSUMER})
        server = self.run_process([sys.executable, "manage.py", "runserver", str(free_port())]).wait_until_up()
        louder = ECHO_CONSUMER.replace("message.content['text']", "message.content['text'].upper()")
        with server.connect("/chat/") as socket:
            socket.send("hello world")
            self.assertEqual(socket.recv(TIMEOUT), "hello world")

            def gone() -> bool:
                # Again and again: Django compares with the time of the file when it first looked, which may be later.
                self.write({"myproject/myapp/consumers.py": louder})
                try:
                    socket.recv(0.5)
                except TimeoutError:
                    return False
                except ConnectionClosed as error:
                    return error.rcvd is not None and error.rcvd.code == 1012
                return False

            wait_until(gone, "the end of the server with the old code")

        def answer() -> Any:
            try:
                with server.connect("/chat/") as socket:
                    socket.send("hello world")
                    return socket.recv(TIMEOUT)
            except (
                ConnectionClosed,
                InvalidHandshake,
                OSError,
            ):  # one server is gone, or going, and the next one not there yet
                return None

        self.assertEqual(wait_until(answer, "an answer of the next server"), "HELLO WORLD")

    def test_channels_as_last_application(self) -> None:
        """``channels`` may stand anywhere among the applications, also below ``staticfiles``, whose ``runserver`` must
        not win then.
        """
        settings = (self.folder / "myproject/settings.py").read_text()
        settings = corrected(
            settings, {'    "channels",\n': "", '"myproject.myapp",\n': '"myproject.myapp", "channels",\n'}
        )
        self.write({"myproject/settings.py": settings})
        server = self.example(ECHO_ROUTING, ECHO_CONSUMER)
        with server.connect("/chat/") as socket:
            socket.send("hello world")
            self.assertEqual(socket.recv(TIMEOUT), "hello world")
