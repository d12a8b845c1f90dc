"""The page of messages names every key that the server's messages have, and no other."""

from __future__ import annotations

import json
import re
import socket

import requests
from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.docs import ROOT
from tests.process import TIMEOUT, ServerTestCase, wait_until

ROUTING = """
    import json
    from channelserver import route

    def text_of(message):
        return json.dumps({"channel": message.channel_name, "keys": sorted(message.content)})

    def answer(message):
        if message["path"] == "/keys":
            message.reply_channel.send({"status": 200, "content": text_of(message).encode()})

    def send(message):
        message.reply_channel.send({"text": text_of(message)})

    def write(message):
        with open(message.channel_name, "w") as stream:
            stream.write(text_of(message))

    channel_routing = [
        route("http.request", answer),
        route("http.disconnect", write),
        route("websocket.connect", send),
        route("websocket.receive", send),
        route("websocket.disconnect", write),
    ]
"""


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """Return for each channel of the page its required and its optional keys."""
    text = (ROOT / "docs" / "messages.rst").read_text()
    found = {}
    for channel, section in re.findall(
        r"^((?:http|websocket)\.\w+)\n~+\n(.*?)(?=^[^\n]+\n[~-]{3,}$)", text, re.M | re.S
    ):
        rows = re.findall(r"^   \* - ``(\w+)``\n     - .*?\n     - (.*)", section, re.M)
        optional = {key for key, meaning in rows if meaning.startswith("*optional*")}
        found[channel] = ({key for key, _ in rows} - optional, optional)
    return found


class MessagesPageTests(ServerTestCase):
    """A consumer for each channel tells what its message has."""

    files = {"routing.py": ROUTING}

    def test_keys(self) -> None:
        server = self.start()
        told = [requests.get(server.url("/keys"), timeout=TIMEOUT).json()]
        url = server.url("/").replace("http", "ws", 1)
        with connect(url, subprotocols=[Subprotocol("chat")]) as client:
            told.append(json.loads(client.recv(TIMEOUT)))
            for data in ("text", b"bytes"):
                client.send(data)
                told.append(json.loads(client.recv(TIMEOUT)))
        with socket.create_connection(("127.0.0.1", server.port)) as client_that_leaves:
            client_that_leaves.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for name in ("websocket.disconnect", "http.disconnect"):
            wait_until(lambda path=self.folder / name: path.exists() and path.read_text().endswith("}"), name)
            told.append(json.loads((self.folder / name).read_text()))
        page = documented()
        self.assertEqual({message["channel"] for message in told}, set(page))
        for message in told:
            required, optional = page[message["channel"]]
            keys = set(message["keys"])
            self.assertEqual(required - keys, set(), message["channel"])
            self.assertEqual(keys - required - optional, set(), message["channel"])


class ReadingTests(SynchronousTestCase):
    """The page is read as it is written."""

    def test_documented(self) -> None:
        self.assertEqual(documented()["websocket.receive"], ({"reply_channel", "path", "order"}, {"text", "bytes"}))
