"""``examples/answers`` as its users see it: answers that grow, stop, and outlive the server."""

from __future__ import annotations

import re
import signal

from playwright.sync_api import Page, expect

from browser_tests.case import NARROW, ROOT, WIDE, BrowserTestCase, ChatSite

#: What Chromium writes when a stream breaks off, or there is no server.
BROKEN = re.compile(r"net::ERR_")
#: The end of every answer.
END = re.compile(r"I stop writing\.$")


class AnswersSite(ChatSite):
    """The site, whose answers take some seconds."""

    seconds = 4.0

    def options(self) -> list[str]:
        folder = str(ROOT / "examples" / "answers")
        return ["--settings", "answers.settings", "--pythonpath", folder, "--threads", "1"]

    def variables(self) -> dict[str, str]:
        return {"ANSWERS_SECONDS": str(self.seconds), "ANSWERS_DEBUG": "1", "ANSWERS_DATA": str(self.data)}


class AnswerTests(BrowserTestCase):
    """A visitor who asks."""

    site: AnswersSite

    def make_site(self) -> ChatSite:
        return AnswersSite()

    def ask(self, page: Page, question: str = "Who are you?") -> None:
        """Open the page and ask; return when the answer has begun."""
        page.goto(self.site.url)
        page.get_by_label("Your question").fill(question)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".theirs")).to_contain_text("You asked")

    def test_answer_grows(self) -> None:
        """It is longer and longer, and ends; meanwhile the page tells of the plain view."""
        page = self.visitor()
        self.ask(page)
        answer = page.locator(".theirs")
        lengths = [len(answer.inner_text())]
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^1 answer under way · plain view \d+ ms$"))
        for _ in range(3):
            page.wait_for_function(
                "(length) => document.querySelector('.theirs').textContent.length > length", arg=lengths[-1]
            )
            lengths.append(len(answer.inner_text()))
        self.assertEqual(lengths, sorted(set(lengths)))
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        self.picture(page, "answers-1280")
        expect(answer).to_have_text(END)
        expect(answer).to_contain_text("“Who are you?”")
        expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()
        expect(page.get_by_role("status")).to_have_text(re.compile("^0 answers under way"))

    def test_stop(self) -> None:
        """The button stops it, on the server too."""
        self.site.stop()
        self.site.seconds = 1000.0
        self.site.start()
        page = self.visitor()
        page.goto(self.site.url)
        page.get_by_role("button", name="Who else is reading?").click()
        expect(page.get_by_role("status")).to_have_text(re.compile("^1 answer under way"))
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_have_text(re.compile("^0 answers under way"))
        expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()

    def test_server_dies(self) -> None:
        """The answer goes on where it was when the server is there again."""
        page = self.visitor()
        self.ask(page)
        with self.errors_expected(BROKEN):
            self.site.stop(signal.SIGKILL)
            self.site.start()
            answer = page.locator(".theirs")
            expect(answer).to_have_text(END)
        text = answer.inner_text()
        self.assertEqual(text.count("You asked"), 1)
        self.ask(other := self.visitor(), "Who are you?")
        expect(other.locator(".theirs")).to_have_text(text)  # one that never broke

    def test_looks(self) -> None:
        """On a phone and in the dark, too, empty and with an answer."""
        for name, size, scheme in (("390", NARROW, "light"), ("dark", WIDE, "dark")):
            page = self.visitor(size, scheme)
            page.goto(self.site.url)
            self.picture(page, f"answers-{name}-empty")
            self.ask(page)
            expect(page.locator(".theirs")).to_have_text(END)
            self.picture(page, f"answers-{name}")
