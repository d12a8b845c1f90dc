"""The documentation as its readers see it: axe over all pages, their widths on a phone and a desktop, the search."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page
from twisted.trial.unittest import SynchronousTestCase

from browser_tests.case import NARROW, PATIENCE, ROOT, WIDE, chromium

#: Returns what axe finds serious or critical, in short.
AXE = """
    (options) => axe.run({ resultTypes: ["violations"], ...options }).then((found) =>
        found.violations
            .filter(({ impact }) => impact === "serious" || impact === "critical")
            .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(" | ")}`))
"""

#: Colors take nine tenths of axe's time, and depend on the kind of text, not on the page.
COLORS = ("color-contrast", "link-in-text-block")
CONTRAST = {"runOnly": COLORS}
ALL_BUT_CONTRAST = {"rules": {name: {"enabled": False} for name in COLORS}}

#: Returns what is too wide: the page, or a table.
TOO_WIDE = """
    () => [...document.querySelectorAll("html, table")]
        .filter((part) => part.scrollWidth > (part.parentElement ?? { clientWidth: innerWidth }).clientWidth + 1)
        .map((part) => part.textContent.trim().slice(0, 100))
"""

#: Pages that together have everything that can have a color.
OF_EACH_KIND = ("index", "installation", "losses", "options", "reference/exceptions", "search")

#: What people look for, and the page that must be among the first five.
SEARCHES = {
    "docker": "docker",
    "graceful shutdown": "deploy",
    "broadcast": "concepts",
    "guarantee": "losses",
    "autoreload": "installation",
    "authentication": "tutorial",
    "install": "installation",
    "SSE": "async",
    "HTTPS": "tls",
    "cron": "processes",
}


@functools.cache
def built_pages() -> Path:
    """Build all pages, unless the environment names a folder where they are; return their folder, which is removed in
    the end.
    """
    built = os.environ.get("CHANNELSERVER_TEST_PAGES")
    if built:
        return Path(built)
    folder = Path(tempfile.mkdtemp(prefix="channelserver-pages-"))
    atexit.register(shutil.rmtree, folder)
    command = [sys.executable, "-m", "sphinx", "--quiet", "-b", "html", ROOT / "docs", folder]
    # Sphinx has warnings of its own, which are none of ours.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    subprocess.run(command, check=True, env=environment, timeout=PATIENCE * 5)
    return folder


class PagesTests(SynchronousTestCase):
    """All pages, as Sphinx builds them."""

    def setUp(self) -> None:
        self.folder = built_pages()

    def names(self) -> list[str]:
        """Return the names of all pages."""
        names = sorted(str(path.relative_to(self.folder).with_suffix("")) for path in self.folder.rglob("*.html"))
        self.assertGreater(len(names), 40)
        return names

    def open(self, name: str = "index", size: tuple[int, int] = WIDE) -> Page:
        """Return a page, in a browser of its own."""
        context = chromium().new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
        self.addCleanup(context.close)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.goto((self.folder / f"{name}.html").as_uri())
        return page

    def test_axe_and_widths(self) -> None:
        """Axe finds nothing serious. On a desktop and a phone nothing is wider than the window, and no table is wider
        than the text.
        """
        page = self.open()
        complaints = []
        for name in self.names():
            page.goto((self.folder / f"{name}.html").as_uri())
            page.add_script_tag(url=AXE_FILE_PATH.as_uri())  # which need not go through Playwright
            complaints += [f"{name}: {found}" for found in page.evaluate(AXE, ALL_BUT_CONTRAST)]
            for width, height in (NARROW, WIDE):
                page.set_viewport_size({"width": width, "height": height})
                complaints += [f"{name}, {width} pixels: {found}" for found in page.evaluate(TOO_WIDE)]
        self.assertEqual(complaints, [])

    def test_contrast(self) -> None:
        """All that has a color can be read, light and dark, on a page of each kind."""
        page = self.open()
        complaints = []
        for name in OF_EACH_KIND:
            page.goto((self.folder / f"{name}.html").as_uri())
            page.add_script_tag(url=AXE_FILE_PATH.as_uri())  # which need not go through Playwright
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                complaints += [f"{name}, {scheme}: {found}" for found in page.evaluate(AXE, CONTRAST)]
        self.assertEqual(complaints, [])

    def test_content_comes_first_on_a_phone(self) -> None:
        """The title is at the top; the navigation is outside of the window, until somebody asks for it."""
        page = self.open("deploy", NARROW)
        self.assertLess(page.locator("h1").bounding_box()["y"], 150)  # type: ignore[index]
        drawer = page.locator(".sidebar-drawer").bounding_box()
        self.assertLessEqual(drawer["x"] + drawer["width"], 0)  # type: ignore[index]

    def test_search(self) -> None:
        """What people look for is found, in the page that tells most of it."""
        page = self.open("search")
        for words, wanted in SEARCHES.items():
            page.goto(f"{(self.folder / 'search.html').as_uri()}?q={words}")
            page.wait_for_selector("#search-results p.search-summary:has-text('finished')")
            links = page.locator("#search-results ul.search li > a")
            first = [links.nth(index).get_attribute("href") or "" for index in range(min(5, links.count()))]
            self.assertIn(f"{wanted}.html", [link.partition("?")[0].partition("#")[0] for link in first], words)
