"""The JavaScript of README and documentation, in a browser, against the projects that the pages have written so far."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from browser_tests.case import PATIENCE, chromium
from tests.docs import PAGES, ROOT, Block, blocks
from tests.test_docs import SKELETON, PageTestCase

#: Pages that go on with the project of another page.
BEGIN_WITH = {"docs/javascript.rst": "docs/bindings.rst"}

#: A site of one page, which is in a file.
SITE = {
    "mysite/page.html": "<!DOCTYPE html><title>Empty</title>",
    "mysite/urls.py": """
        from pathlib import Path
        from django.http import HttpResponse
        from django.template import Context, Engine
        from django.urls import path

        def page(request):
            engine = Engine(libraries={"static": "django.templatetags.static"})
            text = Path(__file__).with_name("page.html").read_text()
            return HttpResponse(engine.from_string(text).render(Context()))

        urlpatterns = [path("", page)]
    """,
}

#: Threads of a server cannot share a database in memory.
DATABASE = 'DATABASES["default"]["NAME"] = BASE_DIR / "db.sqlite3"\n'


class JavaScriptTests(PageTestCase):
    """Each block runs without an error, and writes into the console what its page says (``.. test: prints …``)."""

    def try_script(self, before: list[Block], block: Block) -> None:
        """Run a block in a page of the project that the blocks before it make."""
        self.write({**SKELETON, **SITE})
        for file in before:
            if file.file[0]:
                self.write_block(file)
        with (self.folder / "mysite" / "settings.py").open("a") as stream:
            stream.write("\n" + DATABASE)
        self.run_command([sys.executable, "manage.py", "migrate", "--run-syncdb", "--skip-checks", "--verbosity", "0"])
        if block.language == "html+django":
            (self.folder / "mysite" / "page.html").write_text("<!DOCTYPE html><title>Page</title>\n" + block.text)
        server = self.run_process(
            self.twistd("--settings", "mysite.settings", "--port", "0", "--log-format", "text")
        ).wait_until_up()
        context = chromium().new_context()
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        errors: list[str] = []
        printed: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: printed.append(said.text))
        if block.language == "html+django":
            with page.expect_websocket() as opened:
                page.goto(server.url("/"))
            self.assertTrue(opened.value.url.startswith("ws://"))
        else:
            page.goto(server.url("/"))
            module = re.search(r"^import\b", block.text, re.MULTILINE)
            page.add_script_tag(content=block.text, type="module" if module else "text/javascript")
        wanted = block.marker.partition("prints ")[2]
        if wanted and wanted not in printed:
            page.wait_for_event("console", lambda said: said.text == wanted)
        if "EventSource" not in block.text:  # which keeps its connection
            page.wait_for_load_state("networkidle")
        self.assertEqual(errors, [], f"{block}\n{block.text}")


def _test_of(before: list[Block], block: Block) -> Any:
    def test(self: JavaScriptTests) -> None:
        self.try_script(before, block)

    test.__doc__ = f"The block at {block}."
    return test


def _add_tests(page: Path) -> None:
    found = list(blocks(page))
    base = BEGIN_WITH.get(str(page.relative_to(ROOT)))
    earlier = list(blocks(ROOT / base)) if base else []
    name = str(page.relative_to(ROOT).with_suffix("")).replace("/", "_").replace("-", "_").lower()
    for index, block in enumerate(found):
        if block.language in ("javascript", "html+django"):
            setattr(JavaScriptTests, f"test_{name}_{index}", _test_of(earlier + found[:index], block))


for _page in PAGES:
    _add_tests(_page)
