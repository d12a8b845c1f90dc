"""Static files, served by the reactor without a worker thread.

Runs in the reactor thread; owns what it has learnt about the files it has sent.

A file is looked up when it is asked for, so files may come, change and go while the server runs. No name leads out of
the folder, but links in it may: ``collectstatic --link`` makes such links.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping

from whitenoise.media_types import MediaTypes

from channelserver.server.edge.files import ABSENT, CODINGS, OpenFile, Pair, State, accepted, reason, send
from channelserver.server.edge.memory import Memory
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import RequestHead
from channelserver.server.http.ready import Ready
from channelserver.server.http.source import BLOCK

#: Names with a hash of the content in them, as Django's ``ManifestStaticFilesStorage`` makes them, may be kept for
#: ever.
HASHED_NAME = r"\.[0-9a-f]{12}\.[^/]+$"

#: Seconds for which a browser may keep such a file: ten years.
FOREVER = 10 * 365 * 24 * 3600
#: Seconds between two looks at which compressed variants a file has.
LOOK_SECONDS = 1.0
#: Files known at a time.
MAX_KNOWN = 10_000
#: A file that changed in the last so many seconds may be half written, and one that is missing may be about to be
#: replaced (collectstatic removes a file first). Its request waits as long, and so often at most.
SETTLE_SECONDS, WAITS = 0.1, 5


class Folder:
    """The files below a folder, under a prefix of the path.

    :param folder: path of the folder.
    :param prefix: what their paths start with, with a slash at both ends.
    :param root_path: where the site is mounted. The proxy may have cut it off the path, or not.
    """

    #: The name in the log; and whether every path below the prefix is a file or a 404.
    kind, exclusive = "", False

    def __init__(self, folder: str, prefix: str, root_path: str = "") -> None:
        self._folder = os.path.abspath(folder)
        self._prefixes = (root_path + prefix, prefix) if root_path else (prefix,)

    def find(self, path: str, exchange: Exchange) -> tuple[OpenFile, State] | None:
        """Open the file for the path of a request; None: there is none.

        :raises Unsettled: it was there a moment ago.
        :raises NotAcceptable: the client takes none of its content codings.
        :raises OSError: it cannot be read.
        """
        raise NotImplementedError

    def ready(self, head: RequestHead, turn: float, now: Callable[[], float]) -> Ready | None:
        """Return the answer to a request if it is in memory and current, see :meth:`Ready.is_current`."""
        return None

    def __call__(self, exchange: Exchange) -> bool:
        """Answer a request if it is for one of the files; return whether it was."""
        site = exchange.site
        ready = self.ready(exchange.head, site.bridge.turn_began(), site.wheel.now)
        if ready is not None:
            exchange.reply(ready.reply())
            return True
        return exchange.head.path.startswith(self._prefixes) and self._answer(exchange, WAITS)

    def _answer(self, exchange: Exchange, waits: int) -> bool:
        """Answer a request, or wait for its file.

        :param waits: how often it may wait.
        """
        path, owned = exchange.head.path, self.exclusive or waits < WAITS
        try:
            found = self.find(path, exchange)
            if found is not None:
                file = found[0]
                if exchange.head.method not in ("GET", "HEAD"):
                    file.close()
                    exchange.reply({"status": 405, "headers": [[b"Allow", b"GET, HEAD"]], "content": b""})
                elif waits and 0 <= time.time() - file.modified < SETTLE_SECONDS:
                    file.close()
                    raise Unsettled
                elif not send(exchange, *found):
                    raise Unsettled
                return True
        except Unsettled:
            if waits:
                exchange.site.wheel.call_later(SETTLE_SECONDS, self._answer_later, exchange, waits - 1)
            else:
                exchange.fail(503)
            return True
        except NotAcceptable:
            exchange.fail(406, "", [b"Vary", b"Accept-Encoding"])
            return True
        except ValueError:
            pass  # no file can have this name
        except OSError as error:
            if error.errno not in ABSENT:
                text = f"{self.kind} file {path!r}: {reason(error)}"
                exchange.site.throttled_log.count("file that cannot be sent", text)
        if owned:
            exchange.fail(404)
        return owned

    def _answer_later(self, exchange: Exchange, waits: int) -> None:
        if exchange.state == "waiting":  # the client is still there
            self._answer(exchange, waits)

    def _name(self, path: str) -> str | None:
        """Return the name of the file for a path, relative to the folder; None: no public file has such a name."""
        prefix = next(prefix for prefix in self._prefixes if path.startswith(prefix))
        name = path[len(prefix) :]
        # An empty part, "." and ".." are names of folders; hidden files are not served.
        return None if any(part[:1] in ("", ".") for part in name.split("/")) else name


class Unsettled(Exception):
    """The file is being changed."""


class NotAcceptable(Exception):
    """The client takes no content coding in which the file is there."""


class StaticFiles(Folder):
    """Django's ``STATIC_ROOT`` below ``STATIC_URL``.

    :param max_age: seconds for which browsers may keep a file without a hash in its name; None: it is not said.
    :param charset: of text.
    :param types: media types by the ends of names, beside the usual ones.
    :param all_origins: whether pages of other sites may use the files (fonts, scripts).
    :param immutable: a regular expression for paths whose content never changes.
    """

    kind = "static"

    def __init__(
        self,
        folder: str,
        prefix: str,
        root_path: str = "",
        *,
        max_age: int | None = 60,
        charset: str = "utf-8",
        types: Mapping[str, str] | None = None,
        all_origins: bool = True,
        immutable: str = HASHED_NAME,
    ) -> None:
        super().__init__(folder, prefix, root_path)
        self._types = MediaTypes(extra_types=dict(types or {}))
        self._max_age, self._charset, self._all_origins = max_age, charset, all_origins
        self._is_immutable = re.compile(immutable).search
        self._known: dict[str, _Known] = {}
        self._memory = Memory()

    def ready(self, head: RequestHead, turn: float, now: Callable[[], float]) -> Ready | None:
        known = self._known.get(head.path)
        if known is None or not _is_simple(head):
            return None
        coding = _coding(head, known.codings)
        file = None if coding is None else self._memory.get(head.path, coding)
        return file if file is not None and file.is_current(turn, now) else None

    def find(self, path: str, exchange: Exchange) -> tuple[OpenFile, State] | None:
        known, now = self._known.get(path), exchange.site.wheel.now()
        if known is None or now >= known.look_at:
            known = self._look(path, now)
            if known is None:
                return None
        coding = _coding(exchange.head, known.codings)
        if coding is None:
            raise NotAcceptable
        place = known.place + CODINGS[coding] if coding else known.place
        try:
            file = OpenFile(place)
        except OSError as error:
            if coding:
                known.codings -= {coding}
            elif error.errno == errno.ENOENT:
                known.look_at = now
            else:
                raise
            return self.find(path, exchange)
        state = known.states.get(coding)
        if state is None or state.tag != file.tag:
            state = known.states[coding] = State(file, known.fields, coding)
        if file.size <= BLOCK and _is_simple(exchange.head):
            self._memory.add(path, place, file, known, state)
        return file, state

    def _look(self, path: str, now: float) -> _Known | None:
        """Look at the file for a path, and at its compressed variants; None: there is none.

        :raises Unsettled: it was there a moment ago.
        :raises OSError: it cannot be used.
        """
        known = self._known.pop(path, None)
        name = self._name(path)
        if name is None:
            return None
        place = os.path.join(self._folder, name)
        try:
            status = os.stat(place)
        except FileNotFoundError:
            if known is None:
                raise
            known.gone = now if known.gone is None else known.gone
            if now >= known.gone + SETTLE_SECONDS:
                raise
            self._known[path] = known
            raise Unsettled from None
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        codings = {coding for coding, end in CODINGS.items() if _is_variant(place + end, status)}
        if known is None or known.codings != codings:
            for coding in (b"", *CODINGS):
                self._memory.drop(path, coding)
            known = _Known(place, codings, self._fields(path, bool(codings)))
        known.look_at, known.gone = now + LOOK_SECONDS, None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._memory.clear()
        self._known[path] = known
        return known

    def _fields(self, path: str, varies: bool) -> list[Pair]:
        """Return the header fields that do not depend on a file's content."""
        kind = self._types.get_type(path)
        fields = [("Content-Type", f'{kind}; charset="{self._charset}"' if kind.startswith("text/") else kind)]
        if self._is_immutable(path):
            fields.append(("Cache-Control", f"max-age={FOREVER}, public, immutable"))
        elif self._max_age is not None:
            fields.append(("Cache-Control", f"max-age={self._max_age}, public"))
        if self._all_origins:
            fields.append(("Access-Control-Allow-Origin", "*"))
        if varies:
            fields.append(("Vary", "Accept-Encoding"))
        return [[name.encode("latin-1"), value.encode("latin-1")] for name, value in fields]


class _Known:
    """What is known of a file.

    :param place: its path.
    :param codings: in which it is also there.
    """

    __slots__ = ("codings", "fields", "gone", "look_at", "place", "states")

    def __init__(self, place: str, codings: set[bytes], fields: list[Pair]) -> None:
        self.place = place
        self.codings = codings
        self.fields = fields
        #: When to look again at what is there.
        self.look_at = 0.0
        #: Since when it is missing.
        self.gone: float | None = None
        self.states: dict[bytes, State] = {}


#: Fields that make an answer depend on more than the file and its coding.
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since", b"range"})


def _is_simple(head: RequestHead) -> bool:
    """Whether a request is for a whole file, whatever the client has already."""
    return head.method == "GET" and head.fields.keys().isdisjoint(_CONDITIONS)


def _coding(head: RequestHead, codings: set[bytes]) -> bytes | None:
    """Return the best of the codings in which a file is there, empty for plain; None: the client takes none."""
    wanted, plain = accepted(head)
    for coding in wanted:
        if coding in codings:
            return coding
    return b"" if plain else None


def _is_variant(place: str, original: os.stat_result) -> bool:
    """Whether there is a compressed variant, made of the file as it is now.

    Who compresses a file gives the variant the same time, but for rounding, or it is newer.
    """
    try:
        status = os.stat(place)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime >= original.st_mtime - 0.001


def unusable(folder: str) -> Iterator[str]:
    """Yield what in a folder cannot be served, and why: dangling links, special files, unreadable ones."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield f"{folder} ({reason(error)})"
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from unusable(entry.path)
            continue
        problem = ""
        try:
            if not entry.is_file() and not entry.is_dir():
                entry.stat()  # raises the reason, if it is a link
                problem = "not a regular file"
            elif not os.access(entry.path, os.R_OK):
                problem = "permission denied"
        except OSError as error:
            problem = "dangling link" if error.errno in ABSENT else reason(error)
        if problem:
            yield f"{entry.path} ({problem})"
