"""The JavaScript client: it comes back when the server does, and takes streams apart."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import textwrap
import threading
from typing import Any

from playwright.sync_api import Page

from browser_tests.case import PATIENCE, BrowserTestCase, ChatSite
from tests.process import FILES, wait_until

SETTINGS = """
DEBUG = True
INSTALLED_APPS = ["channelserver", "django.contrib.staticfiles"]
MIDDLEWARE = []
DATABASES = {}
"""

ROUTING = """
    from channelserver import route
    from channelserver.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer

    class Echo(JsonWebsocketConsumer):
        def receive(self, content, multiplexer, **kwargs):
            multiplexer.send({"echo": content})

    class Shout(JsonWebsocketConsumer):
        def connect(self, message, multiplexer, **kwargs):
            multiplexer.send({"hello": True})

        def receive(self, content, multiplexer, **kwargs):
            multiplexer.send({"shout": content["text"].upper()})

    class Streams(WebsocketDemultiplexer):
        consumers = {"echo": Echo, "shout": Shout}

    class Plain(WebsocketConsumer):
        def receive(self, text=None, bytes=None, **kwargs):
            if text == '"bye"':
                self.close(4000)
            else:
                self.send(text=text, bytes=bytes)

    channel_routing = [
        Streams.as_route(path="^/streams/$"),
        Plain.as_route(path="^/plain/$"),
    ]
"""

URLS = """
    from django.http import HttpResponse
    from django.urls import path

    PAGE = '<!doctype html><link rel="icon" href="data:,"><title>%s</title>%s'
    MODULE = '''<script type="module">
        import { ReconnectingWebSocket, WebSocketBridge } from "/static/channelserver/js/websocketbridge.js";
        Object.assign(window, { ReconnectingWebSocket, WebSocketBridge, ready: true });
    </script>'''
    CLASSIC = '''<script src="/static/channels/js/websocketbridge.js"></script>
        <script>Object.assign(window, channels, { ready: true });</script>'''

    def module(request):
        return HttpResponse(PAGE % ("module", MODULE))

    def classic(request):
        return HttpResponse(PAGE % ("classic", CLASSIC))

    def both(request):
        return HttpResponse(PAGE % ("both", CLASSIC.replace("ready", "loaded") + MODULE))

    urlpatterns = [path("", module), path("classic/", classic), path("both/", both)]
"""

#: A page's script: notes all that comes, as text, in ``notes``.
NOTING = """
    window.notes = [];
    window.note = (...values) => notes.push(JSON.stringify(values));
    window.quick = { minReconnectionDelay: 20, maxReconnectionDelay: 200 };
"""


class ProjectSite(ChatSite):
    """A site made of the files above."""

    def __init__(self) -> None:
        super().__init__()
        files = {**FILES, "settings.py": FILES["settings.py"] + SETTINGS, "routing.py": ROUTING, "urls.py": URLS}
        for name, text in files.items():
            (self.folder / name).write_text(textwrap.dedent(text))

    def options(self) -> list[str]:
        """See :class:`ChatSite`."""
        return ["--settings", "settings"]


class SilentProxy:
    """Passes bytes between a browser and the server, until it is made silent: then it drops what comes.

    :param target: port of the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.silent = False
        #: Answers to pings of the page that have passed.
        self.answers = 0

    def __enter__(self) -> SilentProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                browser, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for one, other in ((browser, server), (server, browser)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        dead = False
        with contextlib.suppress(OSError), one, other:
            while data := one.recv(65536):
                dead = dead or self.silent  # for this connection it stays so
                self.answers += b"\0pong" in data
                if not dead:
                    other.sendall(data)


class BridgeTests(BrowserTestCase):
    """``WebSocketBridge`` and ``ReconnectingWebSocket`` in Chromium."""

    def make_site(self) -> ChatSite:
        """See :class:`BrowserTestCase`."""
        return ProjectSite()

    def open(self, path: str = "") -> Page:
        """Return a page that has loaded the client."""
        page = self.visitor()
        page.goto(self.site.url + path)
        page.wait_for_function("window.ready")
        page.evaluate(NOTING)
        return page

    def assertNotes(self, page: Page, *wanted: str) -> None:
        """Wait until the page has noted these values, and nothing else, in whatever order; forget them."""
        page.wait_for_function("(number) => notes.length >= number", arg=len(wanted), timeout=PATIENCE * 1000)
        self.assertEqual(sorted(page.evaluate("notes.splice(0)")), sorted(wanted))

    def test_server_restarted(self) -> None:
        """The server is stopped, or dies, and is started again: the socket comes back, and what was said meanwhile is
        sent; streams arrive at their listeners as before.
        """
        page = self.open()
        page.evaluate("""
            window.bridge = new WebSocketBridge(quick);
            bridge.demultiplex("echo", (payload, stream) => note("echo listener", payload, stream));
            bridge.listen((content, stream) => note("general listener", content, stream));
            bridge.connect("/streams/");
            let open = false; // attempts without success are closed, too
            bridge.socket.addEventListener("open", () => { open = true; note("open"); });
            bridge.socket.addEventListener("close", ({ code }) => { if (open) note("close", code); open = false; });
            bridge.stream("echo").send({ number: 1 }); // before there is a connection
        """)
        hello = '["general listener",{"hello":true},"shout"]'
        self.assertNotes(page, '["open"]', hello, '["echo listener",{"echo":{"number":1}},"echo"]')
        page.evaluate("bridge.send({ stream: 'shout', payload: { text: 'hey' } })")
        self.assertNotes(page, '["general listener",{"shout":"HEY"},"shout"]')
        for number, code in ((signal.SIGTERM, 1012), (signal.SIGKILL, 1006)):
            with self.errors_expected():
                self.site.stop(number)
                self.assertNotes(page, f'["close",{code}]')
                page.evaluate("bridge.stream('echo').send({ number: 2 })")
                page.wait_for_function("bridge.socket.readyState === WebSocket.CONNECTING")
                self.site.start()
                self.assertNotes(page, '["open"]', hello, '["echo listener",{"echo":{"number":2}},"echo"]')
            page.evaluate("bridge.stream('echo').send({ number: 3 })")
            self.assertNotes(page, '["echo listener",{"echo":{"number":3}},"echo"]')

    def test_plain_json(self) -> None:
        """Without streams, any JSON goes to the general listener, which may be set at any time; and binary data."""
        page = self.open()
        page.evaluate("""
            window.bridge = new WebSocketBridge();
            bridge.connect("/plain/");
            bridge.socket.binaryType = "arraybuffer";
            bridge.listen((content, stream) => note(content?.byteLength ?? content, stream));
            for (const content of [{ a: 1 }, ["stream"], null, "text", 5]) bridge.send(content);
            bridge.socket.send(new Uint8Array(3));
        """)
        contents = ('{"a":1}', '["stream"]', "null", '"text"', "5", "3")
        self.assertNotes(page, *(f"[{content},null]" for content in contents))
        page.evaluate("""
            bridge.socket.binaryType = "blob"; // has a method stream()
            bridge.listen((content, stream) => note(content.size, stream));
            bridge.socket.send(new Uint8Array(4));
        """)
        contents = ("4",)
        self.assertNotes(page, *(f"[{content},null]" for content in contents))

    def test_closed_for_good(self) -> None:
        """The server closes: it comes back. The page closes: it does not."""
        page = self.open()
        page.evaluate("""
            window.socket = new ReconnectingWebSocket("/plain/", undefined, quick);
            socket.onopen = () => note("open", socket.readyState === socket.OPEN);
            socket.onclose = (event) => note("close", event.code, event.wasClean);
            socket.onmessage = ({ data }) => note(data);
            0; // a function would be called
        """)
        self.assertNotes(page, '["open",true]')
        page.evaluate("""socket.send('"bye"')""")
        self.assertNotes(page, '["close",4000,true]', '["open",true]')
        self.assertEqual(
            page.evaluate("[socket.url, socket.protocol]"), [f"ws://127.0.0.1:{self.site.port}/plain/", ""]
        )
        page.evaluate("socket.close(1000, '', { keepClosed: false })")
        self.assertNotes(page, '["close",1000,true]', '["open",true]')
        page.evaluate("socket.close(3001)")
        self.assertNotes(page, '["close",3001,true]')
        self.assertEqual(page.evaluate("socket.readyState"), 3)
        self.assertIn("has been closed", page.evaluate("try { socket.send('x') } catch (error) { String(error) }"))
        # Another socket has opened and closed meanwhile: this one would have, too.
        page.evaluate("""
            new ReconnectingWebSocket("/plain/").onopen = ({ target }) => { target.close(); note("other"); };
            0; // a function would be called
        """)
        self.assertNotes(page, '["other"]')

    def test_closed_again(self) -> None:
        """``keepClosed: false`` connects anew, also after a close for good, and while it waits for an attempt."""
        page = self.open()
        page.evaluate("""
            const slow = { minReconnectionDelay: 60000, maxReconnectionDelay: 60000 };
            window.socket = new ReconnectingWebSocket("/plain/", undefined, slow);
            socket.onopen = () => note("open");
            0; // a function would be called
        """)
        self.assertNotes(page, '["open"]')
        page.evaluate("socket.close()")
        page.wait_for_function("socket.readyState === WebSocket.CLOSED")
        page.evaluate("socket.close(1000, '', { keepClosed: false })")
        self.assertNotes(page, '["open"]')
        page.evaluate("""socket.send('"bye"')""")
        page.wait_for_function("socket.readyState === WebSocket.CONNECTING")
        page.evaluate("socket.close(1000, '', { keepClosed: false })")
        self.assertNotes(page, '["open"]')

    def test_final_code(self) -> None:
        """The page decides by the close code whether to come back."""
        page = self.open()
        page.evaluate("""
            const shouldReconnect = ({ code }) => code !== 4000;
            window.socket = new ReconnectingWebSocket("/plain/", undefined, { ...quick, shouldReconnect });
            socket.onopen = () => note("open");
            socket.onclose = ({ code }) => note("close", code, socket.readyState);
            socket.send('"bye"');
        """)
        self.assertNotes(page, '["open"]', '["close",4000,3]')

    def test_silent_proxy(self) -> None:
        """A connection that something drops without a word is given up; pings reach no consumer."""
        page = self.open()
        with SilentProxy(self.site.port) as proxy:
            page.evaluate(
                """(port) => {
                    const options = { ...quick, pingInterval: 100, pingTimeout: 6000 };
                    window.socket = new ReconnectingWebSocket(`ws://127.0.0.1:${port}/plain/`, undefined, options);
                    socket.onopen = () => note("open");
                    socket.onclose = ({ code }) => note("close", code);
                    socket.onmessage = ({ data }) => note(data);
                }""",
                proxy.port,
            )
            self.assertNotes(page, '["open"]')
            wait_until(lambda: proxy.answers > 3, "answers to pings")
            page.evaluate("socket.send('hello')")
            self.assertNotes(page, '["hello"]')
            with self.errors_expected():  # an attempt may begin before the proxy speaks again
                proxy.silent = True
                page.wait_for_function("notes.length", timeout=PATIENCE * 1000)
                proxy.silent = False
                page.wait_for_function("""notes.includes('["open"]')""", timeout=PATIENCE * 1000)
            self.assertEqual(set(page.evaluate("notes.splice(0)")), {'["close",1006]', '["open"]'})

    def test_limits(self) -> None:
        """What is kept without a connection is limited, and so may be the attempts; pauses grow to a limit."""
        page = self.open()
        self.site.stop()
        with self.errors_expected():
            said = page.evaluate("""
                window.socket = new ReconnectingWebSocket("/plain/", [], {
                    ...quick, maxRetries: 5, maxEnqueuedMessages: 2, reconnectionDelayGrowFactor: 10,
                });
                socket.addEventListener("close", () => note(Math.round(performance.now())));
                const send = (data) => { try { socket.send(data) } catch (error) { return String(error) } };
                ["one", "two", "three"].map(send);
            """)
            self.assertEqual(said[:2], [None, None])
            self.assertIn("2 messages are waiting", said[2])
            self.assertEqual(page.evaluate("socket.bufferedAmount"), 6)
            page.wait_for_function("socket.readyState === WebSocket.CLOSED")
            times: list[Any] = page.evaluate("notes.flatMap(JSON.parse)")
        self.assertEqual(len(times), 6)
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        # Half of 20 ms and of 200 ms at least, less what is lost by rounding.
        self.assertGreaterEqual(pauses[0], 9)
        self.assertTrue(all(pause >= 99 for pause in pauses[1:]), pauses)

    def test_address(self) -> None:
        """The address may be a function, which is asked for each attempt; if it fails, it is asked again."""
        page = self.open()
        page.evaluate("""
            let asked = 0;
            window.reportError = (error) => note("reported", String(error));
            window.socket = new ReconnectingWebSocket(() => {
                asked += 1;
                if (asked === 2) throw new Error("not now");
                return `${location.origin}/plain/?attempt=${asked}#part`;
            }, [], quick);
            socket.onopen = () => note(new URL(socket.url).search);
            0; // a function would be called
        """)
        self.assertNotes(page, '["?attempt=1"]')
        page.evaluate("""socket.send('"bye"')""")
        self.assertNotes(page, '["reported","Error: not now"]', '["?attempt=3"]')

    def test_channels_1(self) -> None:
        """A page as it was written for Channels 1: a classic script, with a global name; a module may come as well."""
        for path in ("classic/", "both/"):
            page = self.open(path)
            page.evaluate("""
                const webSocketBridge = new channels.WebSocketBridge();
                webSocketBridge.connect("/streams/");
                webSocketBridge.listen();
                webSocketBridge.demultiplex("echo", function (action, stream) { note(action, stream); });
                webSocketBridge.socket.addEventListener("open", function () {
                    webSocketBridge.stream("echo").send({ prop1: "value1" });
                });
            """)
            self.assertNotes(page, '[{"echo":{"prop1":"value1"}},"echo"]')
        self.assertTrue(page.evaluate("WebSocketBridge === channels.WebSocketBridge"))
