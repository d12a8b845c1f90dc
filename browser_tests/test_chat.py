"""The chat as people see it."""

from __future__ import annotations

import json
import re
import signal

from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from browser_tests.case import NARROW, WIDE, BrowserTestCase


def open_room(page: Page, name: str) -> None:
    """Open the room from the front page, and wait until its socket is there."""
    page.get_by_label("Name of the room").fill(name)
    page.get_by_role("button", name="Open room").click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
    expect_live(page)


def expect_live(page: Page) -> None:
    expect(page.locator("html")).to_have_attribute("data-connection", "live")


def expect_offline(page: Page) -> None:
    expect(page.locator("html")).to_have_attribute("data-connection", "waiting")


def say(page: Page, text: str) -> None:
    page.get_by_label("Your line").fill(text)
    page.get_by_label("Your line").press("Enter")


def expect_lines(page: Page, *texts: str) -> None:
    """The conversation is these lines: all of them, in this order, each once."""
    expect(page.locator(".line .text")).to_have_text(list(texts), use_inner_text=True)


def people(page: Page) -> Locator:
    return page.locator("aside li .name")


class ConversationTests(BrowserTestCase):
    def test_two_people_talk(self) -> None:
        """Each line appears in both windows, once and in its order; a third person in another room sees none of it."""
        anna, bert, carla = self.user("anna"), self.user("bert"), self.user("carla")
        open_room(carla, "Garden")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        say(anna, "Is the kettle on?")
        expect_lines(bert, "Is the kettle on?")
        say(bert, "Not yet")
        expect_lines(anna, "Is the kettle on?", "Not yet")
        burst = [f"biscuit {number}" for number in range(20)]
        for text in burst:
            say(anna, text)
        for page in (anna, bert):
            expect_lines(page, "Is the kettle on?", "Not yet", *burst)
        say(carla, "Nobody but me")
        expect_lines(carla, "Nobody but me")

    def test_text_is_text(self) -> None:
        """Markup is shown as typed, a line may have several lines, and web addresses can be clicked."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        markup = "<img src=x onerror=alert(1)> <b>&amp;</b>"
        say(anna, markup)
        box = anna.get_by_label("Your line")
        box.type("one")
        box.press("Shift+Enter")
        box.type("two https://example.org/?a=<b>")
        box.press("Enter")
        for page in (anna, bert):
            expect_lines(page, markup, "one\ntwo https://example.org/?a=<b>")
        expect(bert.get_by_role("link", name="https://example.org")).to_have_attribute(
            "href", "https://example.org/?a="
        )

    def test_reload(self) -> None:
        """The history survives a reload, and with more than a page of it, the earlier lines can be fetched."""
        anna = self.user("anna")
        open_room(anna, "Kitchen")
        say(anna, "once upon a time")
        expect_lines(anna, "once upon a time")
        anna.reload()
        expect_live(anna)
        expect_lines(anna, "once upon a time")
        earlier = anna.get_by_role("button", name="Earlier lines")
        expect(earlier).to_be_hidden()
        texts = ["once upon a time", *(f"line {number}" for number in range(60))]
        for text in texts[1:]:
            self.site.execute(
                "INSERT INTO rooms_chatmessage (room_id, author_id, text, at, key)"
                " SELECT room_id, author_id, ?, at, lower(hex(randomblob(16))) FROM rooms_chatmessage"
                " WHERE author_id LIMIT 1",
                text,
            )
        anna.reload()
        expect_live(anna)
        expect_lines(anna, *texts[-50:])
        earlier.click()
        expect_lines(anna, *texts)
        expect(earlier).to_be_hidden()

    def test_new_lines_below(self) -> None:
        """Who reads further up is not moved, but told of new lines; who is at the bottom sees them."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        say(anna, "\n".join(f"verse {number}" for number in range(60)))
        say(anna, "the end")
        last = bert.locator(".line", has_text="the end")
        expect(last).to_be_in_viewport()
        bert.get_by_role("log").evaluate("log => { log.scrollTop = 0; }")
        expect(last).not_to_be_in_viewport()
        bert.wait_for_function("document.querySelector('[data-log]').scrollTop === 0")
        say(anna, "the newest")
        pill = bert.get_by_role("button", name="1 new message")
        expect(pill).to_be_visible()
        expect(bert.locator(".line", has_text="the newest")).not_to_be_in_viewport()
        pill.click()
        expect(bert.locator(".line", has_text="the newest")).to_be_in_viewport()
        expect(pill).to_be_hidden()

    def test_refused_lines(self) -> None:
        """What cannot be a line is refused with one sentence, to its sender alone; the socket stays open."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        box = anna.get_by_label("Your line")
        box.evaluate("box => { box.maxLength = 9999; }")
        say(anna, "x" * 2001)
        expect(anna.get_by_role("alert")).to_have_text("A line holds 2000 characters, this one has 2001.")
        expect(box).to_have_value("x" * 2001)
        say(anna, "   ")
        key = "00000000-0000-4000-8000-000000000000"
        frames = [
            "not JSON",
            "[" * 5000,
            "[1, 2]",
            '"text"',
            "{}",
            json.dumps({"type": "dance"}),
            json.dumps({"type": "line", "key": key, "text": "  \n "}),
            json.dumps({"type": "line", "key": key, "text": ["a"]}),
            json.dumps({"type": "line", "key": key, "text": None}),
            json.dumps({"type": "line", "key": key, "text": "\ud800"}),
            json.dumps({"type": "line", "key": key, "text": "\0"}),
            json.dumps({"type": "line", "key": "no key", "text": "a"}),
            json.dumps({"type": "line", "text": "a"}),
        ]
        answers = anna.evaluate(
            """frames => new Promise((resolve, reject) => {
                const errors = [];
                const socket = new WebSocket("/ws/room/kitchen/".replace(/^/, location.origin.replace("http", "ws")));
                socket.onopen = () => frames.forEach((frame) => socket.send(frame));
                socket.onclose = () => reject(new Error("closed"));
                socket.onmessage = ({ data }) => {
                    const message = JSON.parse(data);
                    if (message.type === "error") errors.push(message.text);
                    if (errors.length === frames.length) {
                        socket.onclose = null;
                        socket.close();
                        resolve(errors);
                    }
                };
            })""",
            frames,
        )
        self.assertEqual(len(answers), len(frames))
        for answer in answers:
            self.assertRegex(answer, r"^[A-Z].*\.$")
        say(anna, "after all that")
        for page in (anna, bert):
            expect_lines(page, "after all that")
        expect(bert.get_by_role("alert")).to_have_text("")


class PeopleTests(BrowserTestCase):
    def test_who_is_here(self) -> None:
        """The list of people follows those who come and go; somebody with two windows is one person."""
        anna, bert = self.user("anna"), self.user("Bert")
        open_room(anna, "Kitchen")
        expect(people(anna)).to_have_text(["anna"])
        open_room(bert, "Kitchen")
        for page in (anna, bert):
            expect(people(page)).to_have_text(["anna", "Bert"])
        second = bert.context.new_page()
        second.goto(bert.url)
        expect_live(second)
        expect(people(second)).to_have_text(["anna", "Bert"])
        bert.close()
        say(second, "still here")
        expect_lines(anna, "still here")
        expect(people(anna)).to_have_text(["anna", "Bert"])
        second.close()
        expect(people(anna)).to_have_text(["anna"])

    def test_front_page(self) -> None:
        """The front page shows the rooms, what is said in them and how many are there, as it happens."""
        anna, bert = self.user("anna"), self.user("bert")
        expect_live(anna)
        open_room(bert, "Kitchen & Käse")
        room = anna.get_by_role("list", name="Rooms").get_by_role("listitem").filter(has_text="Kitchen")
        expect(room).to_contain_text("1 here")
        say(bert, "Tea is ready.")
        expect(room).to_contain_text("bert: Tea is ready.")
        bert.goto(self.site.url)
        expect(room).to_contain_text("empty")
        anna.reload()
        expect(room).to_contain_text("bert: Tea is ready.")
        room.get_by_role("link").click()
        expect_live(anna)
        expect_lines(anna, "Tea is ready.")

    def test_announcement(self) -> None:
        """Another process says something in a room: an announcement, and in somebody's name."""
        anna = self.user("anna")
        open_room(anna, "Kitchen")
        self.site.manage("say", "kitchen", "The lights go out at ten.")
        self.site.manage("say", "kitchen", "--as", "anna", "Good night!")
        expect_lines(anna, "The lights go out at ten.", "Good night!")
        expect(anna.locator(".line.site .author")).to_have_text("Announcement")
        expect(anna.locator(".line.mine .text")).to_have_text("Good night!")

    def test_strangers(self) -> None:
        """Without a log-in, pages lead to the log-in and back, and sockets are refused."""
        anna = self.user("anna")
        open_room(anna, "Kitchen")
        stranger = self.visitor()
        stranger.goto(anna.url)
        expect(stranger).to_have_url(f"{self.site.url}enter/?next=/room/kitchen/")
        with self.errors_expected(re.compile("Unexpected response code: 403")):
            outcome = stranger.evaluate(
                """path => new Promise((resolve) => {
                    const socket = new WebSocket(location.origin.replace("http", "ws") + path);
                    socket.onopen = () => resolve("opened");
                    socket.onclose = () => resolve("refused");
                })""",
                "/ws/room/kitchen/",
            )
        self.assertEqual(outcome, "refused")
        stranger.get_by_label("Your name").fill("ANNA")
        stranger.get_by_role("button", name="Enter as guest").click()
        expect(stranger.locator(".errors")).to_contain_text("\u2068ANNA\u2069 is taken.")
        stranger.get_by_role("link", name="log in").click()
        stranger.get_by_label("Username").fill("anna")
        stranger.get_by_label("Password").fill("wrong")
        stranger.get_by_role("button", name="Log in").click()
        expect(stranger.get_by_role("alert")).to_be_visible()
        stranger.get_by_role("link", name="make an account").click()
        stranger.get_by_label("Username").fill("bert")
        stranger.get_by_label("Password", exact=True).fill("12345")
        stranger.get_by_label("Password, once more").fill("12345")
        stranger.get_by_role("button", name="Make account").click()
        expect(stranger.locator("#id_password1_error")).to_contain_text("too short")
        stranger.get_by_label("Password", exact=True).fill("copper-kettle-81")
        stranger.get_by_label("Password, once more").fill("copper-kettle-81")
        stranger.get_by_role("button", name="Make account").click()
        stranger.wait_for_url(anna.url)
        expect(people(anna)).to_have_text(["anna", "bert"])

    def test_room_is_deleted(self) -> None:
        """Whoever is in a room that gets deleted is told so."""
        anna = self.user("anna")
        open_room(anna, "Kitchen")
        with self.errors_expected(re.compile("403|404")):
            self.site.manage(
                "shell", "--verbosity=0", "-c", "from rooms.models import Room; Room.objects.all().delete()"
            )
            expect(anna.get_by_role("status")).to_have_text("This room is gone · All rooms")
        anna.get_by_role("link", name="All rooms").first.click()
        expect(anna.get_by_text("No rooms yet")).to_be_visible()

    def test_logging_out(self) -> None:
        """A log-out ends the user's sockets at once, in the other tabs, too."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        expect(people(bert)).to_have_text(["anna", "bert"])
        tab = anna.context.new_page()
        tab.goto(self.site.url)
        with self.errors_expected(re.compile("403")):
            tab.get_by_role("button", name="Log out").click()
            tab.wait_for_url(re.compile("/enter/"))
            expect(anna.get_by_role("status")).to_contain_text("Log in again")
        expect(people(bert)).to_have_text(["bert"])


class ConnectionTests(BrowserTestCase):
    def test_restart(self) -> None:
        """The server is restarted: pages come back by themselves, and no line is lost or doubled."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        say(anna, "before")
        expect_lines(bert, "before")
        with self.errors_expected():
            self.assertEqual(self.site.stop(), 0)
            for page in (anna, bert):
                expect_offline(page)
            say(anna, "typed meanwhile 1")
            say(anna, "typed meanwhile 2")
            expect(anna.locator("[data-waiting]")).to_contain_text("typed meanwhile 2")
            self.site.start()
            for page in (anna, bert):
                expect_live(page)
                expect_lines(page, "before", "typed meanwhile 1", "typed meanwhile 2")
        expect(anna.locator("[data-waiting]")).to_be_hidden()
        say(bert, "after")
        for page in (anna, bert):
            expect_lines(page, "before", "typed meanwhile 1", "typed meanwhile 2", "after")
            expect(people(page)).to_have_text(["anna", "bert"])

    def test_crash(self) -> None:
        """The server dies without a word: those who left meanwhile are not listed when it is back."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            open_room(page, "Kitchen")
        expect(people(anna)).to_have_text(["anna", "bert"])
        with self.errors_expected():
            self.site.stop(signal.SIGKILL)
            bert.close()
            expect_offline(anna)
            self.site.start()
            expect_live(anna)
        expect(people(anna)).to_have_text(["anna"])

    def test_signs_of_life(self) -> None:
        """Pages say regularly that they are there, however much is going on; who stops to do so is no longer listed."""
        anna, bert = self.user("anna"), self.user("bert")
        for page in (anna, bert):
            page.clock.install()
            open_room(page, "Kitchen")
        expect(people(anna)).to_have_text(["anna", "bert"])
        bert.clock.pause_at(bert.evaluate("Date.now()") + 10_000)
        bert.wait_for_load_state()  # a page says it then, too
        say(bert, "Good morning!")  # when this has come, all has that bert's page said before
        expect_lines(anna, "Good morning!")
        self.site.execute("UPDATE rooms_presence SET seen = datetime('now', '-1 hour')")
        anna.clock.run_for(20_000)
        say(bert, "Quite a day!")
        expect_lines(anna, "Good morning!", "Quite a day!")
        anna.clock.run_for(10_000)
        expect(people(anna)).to_have_text(["anna"])

    def test_silence(self) -> None:
        """A connection over which nothing comes any more is given up for a new one."""
        anna, bert = self.user("anna"), self.user("bert")
        anna.clock.install()
        connections: list[WebSocketRoute] = []

        def connect(route: WebSocketRoute) -> None:
            server = route.connect_to_server()
            if not connections:
                server.on_message(lambda message: None)
            connections.append(route)

        anna.route_web_socket(re.compile("/ws/room/"), connect)
        for page in (anna, bert):
            open_room(page, "Kitchen")
        expect(people(anna)).to_have_count(0)
        seconds = 0
        while len(connections) < 2:
            anna.clock.run_for(1000)
            seconds += 1
            self.assertLess(seconds, 40)
        expect(people(anna)).to_have_text(["anna", "bert"])
        expect_live(anna)
        self.assertEqual(len(connections), 2)

    def test_missed_lines(self) -> None:
        """Somebody's connection breaks while the others go on: what was said meanwhile is there when it is back."""
        anna, bert = self.user("anna"), self.user("bert")
        connections: list[WebSocketRoute] = []
        broken = False

        def connect(route: WebSocketRoute) -> None:
            if broken:
                route.close(code=1012)
            else:
                route.connect_to_server()
                connections.append(route)

        bert.route_web_socket(re.compile("/ws/room/"), connect)
        for page in (anna, bert):
            open_room(page, "Kitchen")
        say(anna, "before")
        expect_lines(bert, "before")
        broken = True
        connections.pop().close(code=1012)
        expect_offline(bert)
        say(bert, "typed without a connection")
        missed = [f"missed {number}" for number in range(5)]
        for text in missed:
            say(anna, text)
        expect_lines(anna, "before", *missed)
        expect_lines(bert, "before")
        broken = False
        for page in (anna, bert):
            expect_lines(page, "before", *missed, "typed without a connection")
        say(anna, "after")
        expect_lines(bert, "before", *missed, "typed without a connection", "after")

    def test_lost_acknowledgement(self) -> None:
        """A line is stored, but the connection breaks before its sender hears of it: it is not said twice."""
        anna, bert = self.user("anna"), self.user("bert")
        deaf = False

        def connect(route: WebSocketRoute) -> None:
            server = route.connect_to_server()

            def from_server(message: str | bytes) -> None:
                nonlocal deaf
                if deaf and json.loads(message)["type"] == "line":
                    deaf = False
                    server.close()
                    route.close(code=1012)
                else:
                    route.send(message)

            server.on_message(from_server)

        anna.route_web_socket(re.compile("/ws/room/"), connect)
        for page in (anna, bert):
            open_room(page, "Kitchen")
        say(anna, "first")
        expect_lines(anna, "first")
        deaf = True
        say(anna, "second")
        say(anna, "third")
        for page in (anna, bert):
            expect_lines(page, "first", "second", "third")
        self.assertFalse(deaf)
        for page in (anna, bert):
            page.reload()
            expect_lines(page, "first", "second", "third")


class LooksTests(BrowserTestCase):
    """Pictures for the eye. What is checked: nothing sticks out, and a phone shows all that a wide screen shows."""

    #: Room, who says it, what, and how many minutes ago.
    TALK = (
        ("Allotment 14", "tom", "The gate is locked again, the key hangs in the shed.", 3900),
        ("Lost and found", "jonas", "One blue mitten, left hand.", 1700),
        ("Street party", "marta", "Morning! Who is bringing what on Saturday?", 1505),
        ("Street party", "jonas", "Bread and two kinds of cheese.", 1502),
        ("Street party", "ines.k", "I have a cake in the oven as a rehearsal. Results tonight.", 1490),
        ("Night train reading club", "Lü", "Chapter seven by Thursday?", 160),
        ("Street party", "tom", "The forecast says dry until six: https://example.org/weather", 91),
        ("Choir", "ines.k", "Altos: please bring a pencil this time.", 70),
        ("Street party", "marta", "Then we stay outside. I'd still put the music under the roof.", 64),
        ("Street party", "ines.k", "Rehearsal result: the cake is gone. I take that as a yes.", 12),
        ("Street party", "Lü", "Save me a piece next time…", 11),
        ("Street party", "marta", "So: bread, cheese, cake, music.", 5),
        ("Street party", "marta", "Who has lamps?", 4),
        ("Street party", "jonas", "Two strings of them, and a very long cable.", 3),
        ("Street party", "ines.k", "Then we have everything. See you on Saturday!", 1),
    )

    def test_a_lively_room(self) -> None:
        """Several people in several rooms, wide and narrow, light and dark."""
        everybody = {name: self.user(name) for name in ("marta", "jonas", "tom", "ines.k", "Lü")}
        seats: dict[tuple[str, str], Page] = {}
        for room, name, text, _ in self.TALK:
            if (room, name) not in seats:
                seats[room, name] = page = everybody[name].context.new_page()
                page.goto(self.site.url)
                open_room(page, room)
            say(seats[room, name], text)
            expect(seats[room, name].locator(".line .text").last).to_have_text(text)
        for room, name in (("Allotment 14", "tom"), ("Lost and found", "jonas")):
            seats[room, name].close()
        for number, (_, _, text, minutes) in enumerate(self.TALK):
            seconds = f"{number - minutes * 60} seconds"
            self.site.execute("UPDATE rooms_chatmessage SET at = datetime('now', ?) WHERE text = ?", seconds, text)
        party = seats["Street party", "marta"].url
        for size in (WIDE, NARROW):
            for scheme in ("light", "dark"):
                suffix = str(size[0]) if scheme == "light" else f"{size[0]}-dark"
                page = self.visitor(size, scheme, like=everybody["marta"])
                page.goto(party)
                expect_live(page)
                expect(people(page)).to_have_text(["ines.k", "jonas", "Lü", "marta", "tom"])
                self.picture(page, f"chat-{suffix}")
                self.assertAccessible(page, f"room, {suffix}")
                page.goto(self.site.url)
                expect_live(page)
                expect(page.get_by_text("5 here")).to_be_visible()
                self.picture(page, f"rooms-{suffix}")
                self.assertAccessible(page, f"rooms, {suffix}")
                page.goto(f"{self.site.url}server/")
                expect_live(page)
                # What happens elsewhere is seen here: the rooms of the talk and the first one, and the open sockets.
                expect(page.locator("[data-rooms]")).to_have_text("6")
                expect(page.locator("[data-sockets]")).to_have_text(str(len(everybody) + len(seats) - 2))
                expect(page.locator("[data-curve]")).to_have_attribute("points", re.compile(r"\d \d"))
                self.picture(page, f"server-{suffix}")
                self.assertAccessible(page, f"server, {suffix}")

    def test_doors(self) -> None:
        """A name, log-in and sign-up, with complaints."""
        for size in (WIDE, NARROW):
            for scheme in ("light", "dark"):
                suffix = str(size[0]) if scheme == "light" else f"{size[0]}-dark"
                page = self.visitor(size, scheme)
                page.goto(self.site.url)
                self.picture(page, f"enter-{suffix}")
                self.assertAccessible(page, f"enter, {suffix}")
                page.get_by_role("link", name="log in").click()
                self.picture(page, f"login-{suffix}")
                self.assertAccessible(page, f"login, {suffix}")
                page.get_by_role("link", name="make an account").click()
                page.get_by_label("Username").fill("not a name")
                page.get_by_label("Password", exact=True).fill("12345")
                page.get_by_label("Password, once more").fill("12345")
                page.get_by_role("button", name="Make account").click()
                expect(page.locator(".errors").first).to_be_visible()
                self.picture(page, f"signup-{suffix}")
                self.assertAccessible(page, f"signup, {suffix}")

    def test_narrow_screen(self) -> None:
        """On a phone the people are in a drawer, and nothing that anybody types makes the page wider."""
        name = "a.name.much.longer.than.anybody.would.choose.who.has.to.type.it@example.org"
        page = self.member(name, NARROW)
        self.picture(page, "long-rooms-390")
        open_room(page, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunte")
        text = "w" * 300
        say(page, text)
        expect_lines(page, text)
        self.picture(page, "long-390")
        drawer = page.get_by_role("complementary", name="Who is here")
        toggle = page.get_by_role("button", name="Who is here")
        expect(drawer).not_to_be_visible()
        toggle.click()
        expect(drawer).to_be_in_viewport()
        expect(people(page)).to_have_text([name])
        self.picture(page, "drawer-390")
        page.keyboard.press("Escape")
        expect(drawer).not_to_be_visible()
        expect(toggle).to_be_focused()

    def test_first_visit(self) -> None:
        """A name is enough; a room with three lines is there; two names that look alike in a URL are two rooms."""
        page = self.user("Anna  Bell")
        expect(page.locator(".account-name")).to_have_text("Anna Bell")
        room = page.get_by_role("list", name="Rooms").get_by_role("link")
        expect(room).to_contain_text("Welcome")
        room.click()
        expect_live(page)
        expect(page.locator(".line .text")).to_have_count(3)
        with page.expect_popup() as opened:
            page.get_by_role("link", name="this in a second window").click()
        second = opened.value
        expect_live(second)
        say(page, "Can you hear me?")
        expect(second.locator(".line .text").last).to_have_text("Can you hear me?")
        for name in ("C++", "C#"):
            page.goto(self.site.url)
            open_room(page, name)
            say(page, f"Who knows {name}?")
            expect_lines(page, f"Who knows {name}?")
        for path in ("", "404/"):
            with self.errors_expected(re.compile("404")):
                page.goto(self.site.url + path)
            self.assertAccessible(page, path)

    def test_right_to_left(self) -> None:
        """Names that are written from right to left turn nothing around them."""
        name, room = "دانا 1", "حديقة (2)"
        page, other = self.user(name), self.user("bert")
        open_room(page, room)
        say(page, "שלום!")
        expect(other.locator(".room", has_text=room).locator(".room-line")).to_have_text(f"{name}: שלום!")
        isolated = """
            (texts) => texts.filter((text) => {
                const found = document.evaluate(`//body//text()[contains(., "${text}")]`, document, null, 6, null);
                return ![...Array(found.snapshotLength).keys()]
                    .map((index) => found.snapshotItem(index).parentElement)
                    .filter((element) => element.checkVisibility())
                    .every((element) => getComputedStyle(element).unicodeBidi.includes("isolate")
                        || element.closest("[dir=auto]"));
            })
        """
        open_room(other, room)
        expect_lines(other, "שלום!")
        for shown in (page, other):
            self.assertEqual(shown.evaluate(isolated, [name, room, "שלום"]), [])
            self.assertAccessible(shown, "room")
        expect(other.locator(".by").first).to_have_text(re.compile(rf"^{name} \d\d:\d\d$"))
        place = other.locator(".by time").first.bounding_box()
        author = other.locator(".by .author").first.bounding_box()
        assert place is not None and author is not None
        self.assertLess(author["x"] + author["width"], place["x"] + 1)  # the time stays behind the name
        page.goto(self.site.url)
        expect_live(page)
        self.assertEqual(page.evaluate(isolated, [name, room, "שלום"]), [])
        self.picture(page, "rooms-right-to-left")
