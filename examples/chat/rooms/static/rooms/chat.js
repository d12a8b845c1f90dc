/* The browser's side of the chat: the page of a room, and the front page. No library, no build step.

   Whatever people typed gets into the page as textContent, never as HTML. */

const HEARTBEAT = 25_000; // between two "I am here"
const PATIENCE = 10_000; // for an answer, before the connection counts as dead
const FIRST_RETRY = 500;
const LAST_RETRY = 15_000;
const LOGGED_OUT = 4001; // the server's code for a socket whose user has logged out

const LABELS = {
  connecting: "Connecting…",
  live: "Live",
  waiting: "Offline, trying again…",
  out: "Logged out · ",
  gone: "This room is gone · ",
};

/* A WebSocket that comes back.

   `url` is called for each attempt, since the address says how much the page already has. A connection can be dead
   without the browser noticing (a phone that changed networks), so the page asks for a sign of life now and then. */
class Connection {
  #url;
  #onMessage;
  #onState;
  #socket = null;
  #attempts = 0;
  #retry = 0;
  #heartbeat = 0;
  #deadline = 0;

  constructor(url, onMessage, onState) {
    this.#url = url;
    this.#onMessage = onMessage;
    this.#onState = onState;
    addEventListener("online", () => this.wake());
    addEventListener("pageshow", () => this.wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.wake());
    this.#dial();
  }

  /* Send `content`, or return false if there is no connection. */
  send(content) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(content));
    return true;
  }

  /* There is reason to hope: do not wait for the next attempt. */
  wake() {
    if (this.#socket) this.#ask();
    else if (this.#retry) this.#dial();
  }

  /* Make sure of an answer within PATIENCE. */
  #ask() {
    if (!this.#deadline && this.send({ type: "here" })) {
      this.#deadline = setTimeout(() => this.#lost(this.#socket), PATIENCE);
    }
  }

  #dial() {
    clearTimeout(this.#retry);
    this.#retry = 0;
    this.#onState("connecting");
    const url = new URL(this.#url(), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url));
    let opened = false;
    // A handshake without end would keep us from ever trying again.
    this.#deadline = setTimeout(() => this.#lost(socket), 2 * PATIENCE);
    socket.onopen = () => {
      opened = true;
      this.#calm();
      this.#heartbeat = setInterval(() => this.#ask(), HEARTBEAT);
      this.#onState("live");
    };
    socket.onmessage = (event) => {
      this.#attempts = 0;
      this.#calm();
      this.#onMessage(JSON.parse(event.data));
    };
    socket.onclose = (event) => this.#lost(socket, !opened || event.code === LOGGED_OUT);
  }

  /* Nothing is waited for any more. */
  #calm() {
    clearTimeout(this.#deadline);
    this.#deadline = 0;
  }

  async #lost(socket, maybeForGood = false) {
    if (socket !== this.#socket) return;
    this.#calm();
    clearInterval(this.#heartbeat);
    this.#socket = null;
    socket.onmessage = socket.onopen = socket.onclose = null;
    socket.close();
    // The browser does not say why a handshake failed. What has become of the page itself, tells.
    const fate = maybeForGood && (await fateOfPage());
    if (fate) {
      this.#onState(fate);
      return;
    }
    // Twice as long each time, and not to the millisecond: after a restart of the server, not all shall come at once.
    const pause = Math.min(LAST_RETRY, FIRST_RETRY * 2 ** this.#attempts++) * (0.5 + Math.random() / 2);
    this.#retry = setTimeout(() => this.#dial(), pause);
    this.#onState("waiting");
  }
}

async function fateOfPage() {
  try {
    const answer = await fetch(location.href, { method: "HEAD", redirect: "manual", cache: "no-store" });
    if (answer.type === "opaqueredirect") return "out"; // to the log-in
    return answer.status === 404 ? "gone" : null;
  } catch {
    return null;
  }
}

/* ---- pieces of both pages ---- */

const find = (name) => document.querySelector(`[data-${name}]`);
const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const fromTemplate = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;

const alphabet = new Intl.Collator();
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const shortDate = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const fullDate = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });

function dayName(date) {
  const today = new Date();
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  if (date.toDateString() === today.toDateString()) return "Today";
  if (date.toDateString() === yesterday.toDateString()) return "Yesterday";
  return calendar.format(date);
}

function showTime(element, date, text) {
  element.dateTime = date.toISOString();
  element.title = fullDate.format(date);
  element.textContent = text;
}

function showAvatar(element, person) {
  element.dataset.hue = person.hue;
  element.textContent = person.initials;
}

/* Text whose direction of writing touches nothing around it. */
function isolated(text) {
  const element = document.createElement("bdi");
  element.textContent = text;
  return element;
}

/* Show the state of the connection; scripts and styles find it at the root element. */
function showState(state) {
  document.documentElement.dataset.connection = state;
  const label = find("state-label");
  label.textContent = LABELS[state];
  if (state === "out" || state === "gone") {
    const link = document.createElement("a");
    link.href = state === "out" ? location.href : find("lobby-link").href;
    link.textContent = state === "out" ? "Log in again" : "All rooms";
    label.append(link);
  }
}

/* ---- a room ---- */

class Room {
  #app;
  #me;
  #log = find("log");
  #list = find("lines");
  #connection;
  #lines = []; // in the order of their numbers; each {id, author, at (a Date), element, …}
  #known = new Set(); // their numbers
  #atBottom = true;
  #unread = 0;
  #title = document.title;
  #people = new People();
  #outbox;
  #composer;
  #settled = false; // nothing is announced as new before the first page is up

  constructor(app) {
    this.#app = app;
    this.#me = Number(app.dataset.user);
    const history = embedded("history");
    this.#place(history.lines);
    find("more").hidden = !history.more;
    find("more").addEventListener("click", () => this.#fetchEarlier());
    this.#toBottom();
    this.#settled = true;

    this.#log.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // The box grows, the keyboard of a phone opens: whoever was at the bottom stays there.
    new ResizeObserver(() => this.#stick()).observe(this.#log);
    find("pill").addEventListener("click", () => {
      this.#toBottom();
      find("text").focus();
    });
    document.addEventListener("visibilitychange", () => this.#scrolled());

    this.#outbox = new Outbox(`outbox-${this.#me}-${app.dataset.room}`, (line) => this.#connection.send(line));
    this.#composer = new Composer(
      (text) => {
        this.#outbox.add(text);
        this.#toBottom();
      },
      () => this.#stick(),
    );
    new PeopleDrawer();
    this.#connection = new Connection(
      () => `${app.dataset.socket}?after=${this.#lines.at(-1)?.id ?? 0}`,
      (message) => this.#receive(message),
      (state) => {
        showState(state);
        if (state !== "live") this.#outbox.pause();
      },
    );
  }

  #receive(message) {
    if (message.type === "line") {
      this.#place([message]);
    } else if (message.type === "welcome") {
      if (message.skipped) this.#startOver();
      this.#place(message.lines);
      this.#outbox.resume();
    } else if (message.type === "people") {
      this.#people.replace(message);
      this.#showPeople();
    } else if (message.type === "came" || message.type === "went") {
      this.#people.change(message);
      this.#showPeople();
    } else if (message.type === "error") {
      showNotice(message.text);
      const refused = this.#outbox.remove(message.key);
      if (refused) this.#composer.giveBack(refused.text);
    }
  }

  /* So much was missed that a piece is lacking in between. Better a short log than one with a hole. */
  #startOver() {
    this.#lines = [];
    this.#known.clear();
    this.#list.replaceChildren();
    find("more").hidden = false;
  }

  /* Put lines where they belong by their numbers. A line that is there already is not shown again. */
  #place(lines) {
    const wasAtBottom = this.#atBottom;
    let news = 0;
    let mine = false;
    for (const line of lines) {
      if (line.author?.id === this.#me) this.#outbox?.remove(line.key);
      if (this.#known.has(line.id)) continue;
      this.#known.add(line.id);
      let index = this.#lines.length;
      while (index > 0 && this.#lines[index - 1].id > line.id) index--;
      const placed = { ...line, at: new Date(line.at), element: fromTemplate("line") };
      this.#lines.splice(index, 0, placed);
      this.#fill(placed);
      this.#list.insertBefore(placed.element, this.#lines[index + 1]?.element ?? null);
      this.#arrange(index);
      this.#arrange(index + 1);
      if (line.author?.id === this.#me) mine = true;
      else news++;
    }
    find("empty").hidden = this.#lines.length > 0;
    if (!this.#settled) return;
    if (wasAtBottom || mine) this.#toBottom();
    if (news && (!this.#atBottom || document.hidden)) this.#countUnread(this.#unread + news);
  }

  #fill({ element, author, text, at, id }) {
    element.dataset.id = id;
    linkify(element.querySelector(".text"), text);
    showTime(element.querySelector("time"), at, clock.format(at));
    if (author) {
      showAvatar(element.querySelector(".avatar"), author);
      element.querySelector(".author").textContent = author.name;
      element.classList.toggle("mine", author.id === this.#me);
    } else {
      element.classList.add("site");
      element.querySelector(".author").textContent = "Announcement";
    }
  }

  /* Decide what a line shows, seen the one before it: a new day, and author and time, or just another line. */
  #arrange(index) {
    const line = this.#lines[index];
    if (!line) return;
    const before = this.#lines[index - 1];
    const newDay = before?.at.toDateString() !== line.at.toDateString();
    const follows = !newDay && before.author?.id === line.author?.id && line.at - before.at < 5 * 60_000;
    line.element.querySelector(".day").textContent = newDay ? dayName(line.at) : "";
    line.element.classList.toggle("new-day", newDay);
    line.element.classList.toggle("follows", follows);
  }

  async #fetchEarlier() {
    const button = find("more");
    button.disabled = true;
    try {
      const answer = await fetch(`${this.#app.dataset.earlier}?before=${this.#lines[0]?.id ?? ""}`);
      if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
      const { lines, more } = await answer.json();
      const fromBottom = this.#log.scrollHeight - this.#log.scrollTop;
      this.#settled = false;
      this.#place(lines);
      this.#settled = true;
      button.hidden = !more;
      this.#log.scrollTop = this.#log.scrollHeight - fromBottom;
    } catch {
      showNotice("The earlier lines could not be fetched.");
    }
    button.disabled = false;
  }

  #scrolled() {
    this.#atBottom = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 48;
    if (this.#atBottom && !document.hidden) this.#countUnread(0);
  }

  #stick() {
    if (this.#atBottom) this.#toBottom();
  }

  #toBottom() {
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#atBottom = true;
    if (!document.hidden) this.#countUnread(0);
  }

  #countUnread(count) {
    this.#unread = count;
    const pill = find("pill");
    pill.hidden = this.#atBottom || !count;
    pill.textContent = plural(count, "new message", "new messages");
    document.title = count ? `(${count}) ${this.#title}` : this.#title;
  }

  #showPeople() {
    const people = this.#people.here();
    const rows = people.map((person) => {
      const row = fromTemplate("one");
      showAvatar(row.querySelector(".avatar"), person);
      row.querySelector(".name").textContent = person.name;
      row.title = person.name;
      row.classList.toggle("me", person.id === this.#me);
      return row;
    });
    find("people-list").replaceChildren(...rows);
    find("count").textContent = people.length;
    find("count-short").textContent = people.length;
    find("stack").replaceChildren(
      ...people.slice(0, 3).map((person) => {
        const avatar = document.createElement("span");
        avatar.className = "avatar";
        showAvatar(avatar, person);
        return avatar;
      }),
    );
  }
}

/* Who is in the room. Two messages can overtake each other on the server, so each carries a version, and what is known
   of somebody is only replaced by something newer. */
class People {
  #known = new Map(); // by the user's number: {person, here, version}

  /* Somebody came or went. */
  change({ type, version, person }) {
    if (version > (this.#known.get(person.id)?.version ?? -1)) {
      this.#known.set(person.id, { person, here: type === "came", version });
    }
  }

  /* Everybody who was there at that version. */
  replace({ version, people }) {
    for (const [id, entry] of this.#known) if (entry.version <= version) this.#known.delete(id);
    for (const person of people) this.change({ type: "came", version, person });
  }

  here() {
    const entries = [...this.#known.values()].filter((entry) => entry.here);
    return entries.map((entry) => entry.person).sort((a, b) => alphabet.compare(a.name, b.name));
  }
}

/* Lines on their way. One at a time, so that they stay in order; each keeps its key until the server has shown the line
   to everybody, so a line whose fate is unknown can be sent again without appearing twice. */
class Outbox {
  #name;
  #send;
  #waiting;
  #open = false;
  #timer = 0;

  constructor(name, send) {
    this.#name = name;
    this.#send = send;
    try {
      this.#waiting = JSON.parse(sessionStorage.getItem(name)) ?? [];
    } catch {
      this.#waiting = [];
    }
    this.#changed();
  }

  add(text) {
    this.#waiting.push({ key: newKey(), text });
    this.#changed();
    if (this.#waiting.length === 1) this.#next();
  }

  /* The line has arrived or was refused. Returns it, if it was ours. */
  remove(key) {
    const index = this.#waiting.findIndex((line) => line.key === key);
    if (index < 0) return null;
    const [line] = this.#waiting.splice(index, 1);
    this.#changed();
    if (index === 0) this.#next();
    return line;
  }

  pause() {
    this.#open = false;
    clearTimeout(this.#timer);
    this.#show();
  }

  resume() {
    this.#open = true;
    this.#show();
    this.#next();
  }

  #next() {
    clearTimeout(this.#timer);
    if (this.#open && this.#waiting.length && this.#send({ type: "line", ...this.#waiting[0] })) {
      this.#timer = setTimeout(() => this.#next(), PATIENCE);
    }
  }

  #changed() {
    try {
      if (this.#waiting.length) sessionStorage.setItem(this.#name, JSON.stringify(this.#waiting));
      else sessionStorage.removeItem(this.#name);
    } catch {
      // No storage: the lines just do not survive a reload.
    }
    this.#show();
  }

  /* Usually a line is through within milliseconds; only what takes longer is shown as waiting. */
  #show() {
    const box = find("waiting");
    box.classList.toggle("offline", !this.#open);
    box.hidden = !this.#waiting.length;
    find("waiting-label").textContent = this.#open ? "Sending…" : "Will be sent as soon as the connection is back:";
    find("waiting-lines").replaceChildren(
      ...this.#waiting.map(({ text }) => {
        const row = document.createElement("li");
        row.dir = "auto";
        row.textContent = text;
        return row;
      }),
    );
  }
}

/* A random UUID. crypto.randomUUID() exists on HTTPS and localhost alone; a chat may run in a plain local network. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/* The box to type in. Enter sends, Shift+Enter begins a new line. */
class Composer {
  #form = find("composer");
  #box = find("text");
  #onResize;

  constructor(onLine, onResize) {
    this.#onResize = onResize;
    const box = this.#box;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = box.value.trim();
      box.value = "";
      this.#fit();
      box.focus();
      if (text) onLine(text);
    });
    box.addEventListener("keydown", (event) => {
      // While an input method composes a character, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#form.requestSubmit();
    });
    box.addEventListener("input", () => {
      this.#fit();
      showNotice("");
    });
    this.#fit();
    if (matchMedia("(hover: hover)").matches) box.focus(); // on a phone that would open the keyboard
  }

  /* Put a refused line back, unless something else has been begun. */
  giveBack(text) {
    if (!this.#box.value) this.#box.value = text;
    this.#fit();
  }

  /* Make the box as high as its text. */
  #fit() {
    const box = this.#box;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + box.offsetHeight - box.clientHeight}px`;
    const left = box.maxLength - box.value.length;
    find("left").textContent = left <= 200 ? plural(left, "character left", "characters left") : "";
    this.#form.classList.toggle("blank", !box.value.trim());
    this.#onResize();
  }
}

/* On a narrow screen, the list of people is a drawer. */
class PeopleDrawer {
  constructor() {
    const toggle = find("people-toggle");
    const drawer = find("people");
    const set = (open) => {
      document.body.classList.toggle("people-open", open);
      toggle.setAttribute("aria-expanded", open);
    };
    const close = () => {
      if (!document.body.classList.contains("people-open")) return;
      set(false);
      toggle.focus();
    };
    toggle.addEventListener("click", () => {
      set(true);
      find("people-close").focus();
    });
    find("people-close").addEventListener("click", close);
    find("shade").addEventListener("click", close);
    document.addEventListener("keydown", (event) => event.key === "Escape" && close());
    drawer.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !drawer.contains(relatedTarget)) close();
    });
  }
}

let noticeTimer = 0;

/* One sentence to this user alone. */
function showNotice(text) {
  clearTimeout(noticeTimer);
  find("notice").textContent = text;
  if (text) noticeTimer = setTimeout(() => showNotice(""), 8000);
}

/* Fill `element` with text whose web addresses can be clicked. */
function linkify(element, text) {
  const pieces = text.split(/(https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]])/);
  element.replaceChildren(
    ...pieces.map((piece, index) => {
      if (index % 2 === 0) return piece;
      const link = document.createElement("a");
      link.href = piece;
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
      link.textContent = piece;
      return link;
    }),
  );
}

/* ---- the front page ---- */

class Lobby {
  #list = find("rooms");
  #cards = new Map(); // by the room's number: {element, line, version}

  constructor(main) {
    this.#show(embedded("rooms"));
    new Connection(
      () => main.dataset.socket,
      (message) => message.type === "rooms" && this.#show(message.rooms),
      showState,
    );
  }

  /* What is new about some rooms. Several rooms come with the liveliest first. */
  #show(rooms) {
    for (const room of [...rooms].reverse()) this.#update(room);
    find("empty").hidden = this.#cards.size > 0;
  }

  #update(room) {
    let card = this.#cards.get(room.id);
    if (!card) {
      card = { element: fromTemplate("room-card"), line: 0, version: -1 };
      card.element.querySelector("a").href = room.url;
      card.element.querySelector(".room-name").textContent = room.name;
      this.#cards.set(room.id, card);
      this.#list.prepend(card.element);
      card.element.querySelector(".room-line").textContent = "Nothing said yet";
      this.#showPeople(card, 0);
    }
    if (room.line && room.line.id > card.line) {
      card.line = room.line.id;
      const at = new Date(room.line.at);
      const today = dayName(at) === "Today";
      showTime(card.element.querySelector("time"), at, today ? clock.format(at) : shortDate.format(at));
      const author = document.createElement("b");
      if (room.line.author) author.append(isolated(room.line.author), ": ");
      card.element.querySelector(".room-line").replaceChildren(author, isolated(room.line.text));
      this.#list.prepend(card.element);
    }
    if (room.version >= card.version) {
      card.version = room.version;
      this.#showPeople(card, room.people);
    }
  }

  #showPeople(card, count) {
    const label = card.element.querySelector(".room-people");
    label.textContent = count ? `${count} here` : "empty";
    label.classList.toggle("some", count > 0);
  }
}

const app = document.querySelector(".app");
if (app) new Room(app);
const lobby = find("lobby");
if (lobby) new Lobby(lobby);
