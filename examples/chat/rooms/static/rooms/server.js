/* What the server is doing: figures that come over an EventStream, once a second. */

const SECONDS = 60;

const find = (name) => document.querySelector(`[data-${name}]`);
const state = find("state-label");
const rates = [];
let before = null;

/* Show figures. How many messages there were in a second tells the difference to those before. */
function show({ rooms, sockets, messages }, at) {
  find("rooms").textContent = rooms;
  find("sockets").textContent = sockets;
  if (before && messages >= before.messages) {
    const rate = Math.round((messages - before.messages) / Math.max((at - before.at) / 1000, 0.5));
    find("rate").textContent = rate;
    rates.push(rate);
    rates.splice(0, rates.length - SECONDS);
    draw();
  }
  before = { messages, at };
}

function draw() {
  const most = Math.max(...rates);
  const high = Math.max(most, 10);
  const points = rates.map((rate, index) => `${SECONDS - rates.length + index},${19 - (18 * rate) / high}`);
  find("curve").setAttribute("points", points.join(" "));
  find("most").textContent = most;
}

function showState(name, text) {
  document.documentElement.dataset.connection = name;
  state.textContent = text;
}

const source = new EventSource(find("events").dataset.events);
source.onopen = () => {
  before = null;
  showState("live", "Live");
};
source.onmessage = (event) => show(JSON.parse(event.data), performance.now());
// The browser comes back by itself, unless it got another answer than a stream: then somebody has logged out.
source.onerror = () => {
  if (source.readyState !== EventSource.CLOSED) return showState("waiting", "Offline, trying again…");
  showState("out", "Closed · ");
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = "Load the page again";
  state.append(link);
};
