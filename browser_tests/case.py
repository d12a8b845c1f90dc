"""What the browser tests share: a running chat site, and one Chromium with as many users as a test asks for.

Everything happens in trial's main thread, with its reactor at rest: the server is another process, and Playwright's
synchronous interface waits for the browser. A test waits for what it wants to see, and for nothing else.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from twisted.trial.reporter import TestResultDecorator
from twisted.trial.unittest import SynchronousTestCase

from tests import preloaded
from tests.process import Server, environment, free_port

ROOT = Path(__file__).resolve().parent.parent

#: What a user waits for at most, in seconds. Only a failing test takes that long.
PATIENCE = 60

PASSWORD = "copper-kettle-81"

#: A desktop and a phone.
WIDE, NARROW = (1280, 800), (390, 844)

#: Chromium shall make no connections of its own, and needs no graphics card.
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: The interpreter's variables, the same for all servers, so that these are forks of one interpreter.
PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

#: What Chromium writes into the console when there is no server.
UNREACHABLE = re.compile(r"WebSocket connection to .* failed|Failed to load resource: net::ERR_")

#: What the server must not write. (Until it ends, Twisted keeps a spare file descriptor, open on /dev/null.)
TROUBLE = re.compile(r"Traceback|Warning: (?!unclosed file .*'/dev/null')")

#: The visible elements that reach beyond the sides of the window. (A page that cuts them off has no scroll bar.)
STICKING_OUT = """
    [...document.body.querySelectorAll("*")]
        .filter((element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
        .filter((element) => {
            const { left, right } = element.getBoundingClientRect();
            const shortened = getComputedStyle(element.parentElement).textOverflow === "ellipsis";
            return (left < -0.5 || right > innerWidth + 0.5) && !shortened;
        })
        .map((element) => element.outerHTML.slice(0, 200))
"""

#: Returns what axe finds, in short.
AXE = """
    () => axe.run({ resultTypes: ["violations"] }).then((found) =>
        found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 200)).join(" | ")}`))
"""

# With PYTHONDEVMODE, asyncio reports each time that Playwright waits, which is all it does.
logging.getLogger("asyncio").setLevel(logging.ERROR)

expect.set_options(timeout=PATIENCE * 1000)


@functools.cache
def chromium_options() -> dict[str, Any]:
    """Return how Playwright launches Chromium: the one without windows, which needs half of the processor time, if both
    are there.
    """
    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if path is None:
        raise AssertionError(
            "the browser tests need Chromium as 'chromium-headless-shell' or 'chromium' on the PATH "
            "(Debian: apt install chromium-headless-shell)"
        )
    return {"executable_path": path, "args": CHROMIUM_FLAGS, "timeout": PATIENCE * 1000}


@functools.cache
def chromium() -> Browser:
    """Return the browser of all tests, which ends with the process. Each test has contexts of its own in it."""
    options = chromium_options()
    playwright = sync_playwright().start()
    atexit.register(playwright.stop)
    browser = playwright.chromium.launch(**options)
    atexit.register(browser.close)
    return browser


class ChatSite:
    """The example site in a process of its own. Port and data stay the same when it is started again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="channelserver-browser-")
        self._server: Server | None = None
        self._output: list[str] = []
        self.data = Path(self._folder.name, "data")
        self.data.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"

    @property
    def folder(self) -> Path:
        """The folder in which the server runs."""
        return Path(self._folder.name)

    def options(self) -> list[str]:
        """The options of ``twistd channelserver``, but for the port."""
        return ["--demo", "--demo-data", str(self.data), "--job-threads", "0"]  # a digest may come at any time

    def variables(self) -> dict[str, str]:
        """Variables of the server's environment."""
        return {}

    def start(self) -> None:
        """Start the server; return when it listens."""
        options = ["-n", "--pidfile=", "channelserver", *self.options(), "--port", str(self.port)]
        command = [sys.executable, "-c", preloaded.TWISTD, *options]
        self._server = Server(command, self.folder, environment(**PYTHON, **self.variables()))
        self._server.wait_until_up()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """End the server, by default as an administrator would; return its exit status."""
        server, self._server = self._server, None
        assert server is not None
        try:
            return server.stop(signal_number, PATIENCE)
        finally:
            self._output.append(server.output + "\n")

    def remove(self) -> str:
        """End the server if it runs, and delete its data; return all that it has written."""
        try:
            if self._server is not None:
                self.stop()
            return "".join(self._output)
        finally:
            self._folder.cleanup()

    def manage(self, *arguments: str) -> None:
        """Run ``manage.py`` of the site, in a process beside the server."""
        variables = environment(**PYTHON, CHATSITE_DATA=str(self.data))
        command = [sys.executable, "manage.py", *arguments]
        result = preloaded.run(command, ROOT / "examples" / "chat", variables, PATIENCE)
        if result.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} failed:\n{result.stdout}{result.stderr}")

    def execute(self, statement: str, *values: object) -> None:
        """Change the site's database behind its back."""
        with closing(sqlite3.connect(self.data / "db.sqlite3", timeout=PATIENCE)) as database, database:
            database.execute(statement, values)


class BrowserTestCase(SynchronousTestCase):
    """A test with the chat site at ``self.site`` and as many users as it asks for.

    No page may write an error into its console, but for those expected in :meth:`errors_expected`, and the server may
    write no traceback. When a test fails, the server's output is printed.
    """

    def run(self, result: Any) -> None:
        """Run the test; if it fails, print what the server said."""
        self._output = ""
        watched = _Watched(result)
        super().run(watched)
        if watched.troubled and self._output:
            print(f"\n--- what the server wrote in {self.id()} ---\n{self._output}---", file=sys.stderr)

    def setUp(self) -> None:
        self._browser = chromium()
        self._complaints: list[str] = []
        self._excuse: re.Pattern[str] | None = None
        self.site = self.make_site()
        self.addCleanup(self._remove_site)
        self.site.start()

    def make_site(self) -> ChatSite:
        """Return the site, not started."""
        return ChatSite()

    def tearDown(self) -> None:
        """Look for complaints. Trial runs the clean-ups before this, so the server has ended."""
        self.assertEqual(self._complaints, [])
        self.assertNotRegex(self._output, TROUBLE)

    def _remove_site(self) -> None:
        self._output = self.site.remove()

    # -- people --------------------------------------------------------------------------------------------------------

    def visitor(self, size: tuple[int, int] = WIDE, scheme: str = "light", like: Page | None = None) -> Page:
        """Return an empty page of a browser that nobody else uses.

        :param size: width and height of the window.
        :param scheme: ``light`` or ``dark``.
        :param like: log the browser in as the user of this page.
        """
        context: BrowserContext = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            has_touch=size == NARROW,
            is_mobile=size == NARROW,
            locale="en-GB",
            timezone_id="Europe/Paris",
            reduced_motion="reduce",  # a drawer is open or shut, not on its way
            storage_state=like.context.storage_state() if like else None,
        )
        self.addCleanup(context.close)
        context.set_default_timeout(PATIENCE * 1000)
        context.on("page", self._listen_to)
        return context.new_page()

    def user(self, name: str, size: tuple[int, int] = WIDE, scheme: str = "light") -> Page:
        """Enter as a guest; return the page that the site shows then."""
        page = self.visitor(size, scheme)
        page.goto(self.site.url)
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Enter as guest").click()
        page.wait_for_url(self.site.url)
        return page

    def member(self, name: str, size: tuple[int, int] = WIDE, scheme: str = "light") -> Page:
        """The same with an account."""
        page = self.visitor(size, scheme)
        page.goto(self.site.url)
        page.get_by_role("link", name="Make an account").click()
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Password, once more").fill(PASSWORD)
        page.get_by_role("button", name="Make account").click()
        page.wait_for_url(self.site.url)
        return page

    @contextmanager
    def errors_expected(self, pattern: re.Pattern[str] = UNREACHABLE) -> Iterator[None]:
        """Within this block, pages may complain of what matches `pattern`."""
        self._excuse = pattern
        try:
            yield
        finally:
            self._excuse = None

    def assertAccessible(self, page: Page, name: str) -> None:
        """Check that axe finds nothing in a page."""
        page.evaluate(AXE_SCRIPT)
        self.assertEqual(page.evaluate(AXE), [], name)

    def _listen_to(self, page: Page) -> None:
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("console", lambda said: self._complain(said.text) if said.type in ("error", "warning") else None)

    def _complain(self, text: str) -> None:
        if self._excuse is None or not self._excuse.search(text):
            self._complaints.append(text)

    # -- looks ---------------------------------------------------------------------------------------------------------

    def picture(self, page: Page, name: str) -> None:
        """Check that nothing sticks out of the page at its side; keep a picture of it if the environment says where."""
        scroll_width, width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        self.assertLessEqual(scroll_width, width, name)
        self.assertEqual(page.evaluate(STICKING_OUT), [], name)
        folder = os.environ.get("CHANNELSERVER_SCREENSHOTS")
        if folder:
            page.screenshot(path=Path(folder, f"{name}.png"), animations="disabled", caret="hide")


class _Watched(TestResultDecorator):
    """Passes on what trial is told of a test, and notes whether it was bad."""

    troubled = False

    def addError(self, test: Any, error: Any) -> None:
        self.troubled = True
        super().addError(test, error)

    def addFailure(self, test: Any, failure: Any) -> None:
        self.troubled = True
        super().addFailure(test, failure)
