/* Asks, and shows the answer as it is written. */

const { answer: answerUrl, now: nowUrl } = document.body.dataset;
const find = (name) => document.querySelector(`[data-${name}]`);
const [log, empty, composer, question, send, stop, state] =
  ["log", "empty", "composer", "question", "send", "stop", "state"].map(find);

/** The answer under way. */
let source = null;

function add(kind, text) {
  const bubble = document.createElement("p");
  bubble.className = `text ${kind}`;
  bubble.dir = "auto";
  bubble.textContent = text;
  log.append(bubble);
  return bubble;
}

/** Run `change`; a reader who is at the end of the conversation stays there. */
function keepingEnd(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) {
    log.scrollTop = log.scrollHeight;
  }
}

function ask(text) {
  empty.hidden = true;
  add("mine", text);
  const bubble = add("theirs writing", "");
  log.scrollTop = log.scrollHeight;
  source = new EventSource(`${answerUrl}?${new URLSearchParams({ q: text })}`);
  source.onmessage = (event) => keepingEnd(() => bubble.append(JSON.parse(event.data)));
  source.onopen = () => bubble.classList.remove("broken");
  source.addEventListener("end", () => finish(bubble));
  source.onerror = () => {
    // The browser comes back by itself, and says which token it saw last; not after an error of the server.
    bubble.classList.add("broken");
    if (source.readyState === EventSource.CLOSED) {
      finish(bubble);
    }
  };
  stop.onclick = () => finish(bubble);
  send.hidden = true;
  stop.hidden = false;
}

function finish(bubble) {
  source.close();
  source = null;
  bubble.classList.remove("writing");
  send.hidden = false;
  stop.hidden = true;
  question.focus();
}

/** Ask the plain view, again and again, and show how long it takes. */
async function watch() {
  const began = performance.now();
  try {
    const response = await fetch(nowUrl);
    const { answers } = await response.json();
    const milliseconds = Math.max(1, Math.round(performance.now() - began));
    state.textContent = `${answers} ${answers === 1 ? "answer" : "answers"} under way · plain view ${milliseconds} ms`;
    state.classList.add("live");
  } catch {
    state.textContent = "Connecting…";
    state.classList.remove("live");
  }
  setTimeout(watch, 1000);
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (text && !source) {
    question.value = "";
    ask(text);
  }
});
empty.addEventListener("click", (event) => {
  if (event.target instanceof HTMLButtonElement) {
    ask(event.target.textContent);
  }
});
question.focus();
watch();
