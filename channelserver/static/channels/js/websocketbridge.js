/* The browser's side of channelserver: a WebSocket that reconnects, and JSON with streams on top of it.

   This file has the place and the interface of the one in Channels 1: loaded with <script src=…> it makes the global
   `channels.WebSocketBridge`. It runs as a classic script and as a module alike; new pages import
   channelserver/js/websocketbridge.js. No library, no build step. */

(function () {
  "use strict";

  const root = globalThis;
  root.channels = root.channels || {};
  if (root.channels.WebSocketBridge) return; // loaded in both ways: there is one class

  /* Times are in milliseconds. The names are those of the library that Channels 1 used. */
  const DEFAULTS = {
    minReconnectionDelay: 500, // before the first new attempt
    maxReconnectionDelay: 15000,
    reconnectionDelayGrowFactor: 2,
    connectionTimeout: 10000, // for a handshake
    minUptime: 5000, // a connection that has lasted for this long makes the next pause short again
    maxRetries: Infinity, // attempts without success
    maxEnqueuedMessages: 1000, // kept while there is no connection
    pingInterval: 25000, // of silence, then a ping; 0: none
    pingTimeout: 5000, // for anything to arrive after a ping
    shouldReconnect: () => true, // called with the "close" event
  };

  /* Script cannot send the protocol's own pings. The server answers this message by itself; consumers never see it. */
  const PING = "\0ping";
  const PONG = "\0pong";

  const EVENTS = ["open", "message", "close", "error"];

  /* A WebSocket that connects again when its connection is lost, until close() is called.

     `url` is an address or a function that returns one, which is asked for each attempt. It may be relative to the page;
     http(s) becomes ws(s). Has the methods, events and properties of a WebSocket; "open" comes for each connection,
     "close" for each loss of one. readyState is CONNECTING while it is waiting for the next attempt. */
  class ReconnectingWebSocket extends EventTarget {
    #url;
    #protocols;
    #options;
    #socket = null;
    #queue = [];
    #attempts = 0;
    #openedAt = null;
    #timer = 0;
    #pinger = 0;
    #heardAt = 0;
    #binaryType = "blob";
    #wanted = true;
    #wake = () => this.#timer && !this.#socket && this.#connectAgain();

    constructor(url, protocols, options) {
      super();
      this.#url = url;
      this.#protocols = protocols;
      this.#options = { ...DEFAULTS, ...options };
      for (const name of EVENTS) {
        this["on" + name] = null;
        super.addEventListener(name, (event) => this["on" + name]?.call(this, event));
      }
      this.#connect();
    }

    get url() {
      return this.#socket?.url ?? address(this.#url);
    }

    get protocol() {
      return this.#socket?.protocol ?? "";
    }

    get extensions() {
      return this.#socket?.extensions ?? "";
    }

    get readyState() {
      if (this.#socket) return this.#socket.readyState;
      return this.#wanted ? WebSocket.CONNECTING : WebSocket.CLOSED;
    }

    get bufferedAmount() {
      const waiting = this.#queue.reduce((sum, data) => sum + (data.length ?? data.size ?? data.byteLength ?? 0), 0);
      return waiting + (this.#socket?.bufferedAmount ?? 0);
    }

    get binaryType() {
      return this.#binaryType;
    }

    set binaryType(kind) {
      this.#binaryType = kind;
      if (this.#socket) this.#socket.binaryType = kind;
    }

    /* Send data, or keep it for the next connection. Throws if too much is being kept, or after close(). */
    send(data) {
      if (this.#socket?.readyState === WebSocket.OPEN) {
        this.#socket.send(data);
      } else if (!this.#wanted) {
        throw new Error("this socket has been closed; make another one");
      } else if (this.#queue.length >= this.#options.maxEnqueuedMessages) {
        throw new Error(`there is no connection, and ${this.#queue.length} messages are waiting for one already`);
      } else {
        this.#queue.push(data);
      }
    }

    /* Close for good; with { keepClosed: false }: connect anew, even after a close for good. */
    close(code = 1000, reason = "", { keepClosed = true } = {}) {
      this.#wanted = !keepClosed;
      this.#stopTimer();
      const socket = this.#socket;
      if (keepClosed) {
        root.removeEventListener?.("online", this.#wake);
        this.#queue = [];
      } else {
        this.#attempts = 0;
        // Behind a dead network the closing handshake has no end.
        if (socket) this.#timer = setTimeout(() => this.#lost(socket, { code: 1006 }), this.#options.connectionTimeout);
        else this.#connectAgain();
      }
      socket?.close(code, reason);
    }

    #connectAgain() {
      try {
        this.#connect();
      } catch (error) {
        this.#connectLater(); // the function that gives the address has failed
        root.reportError(error);
      }
    }

    #connectLater() {
      this.#stopTimer();
      this.#timer = setTimeout(() => this.#connectAgain(), this.#pause());
      this.#attempts += 1;
    }

    #connect() {
      const target = address(this.#url);
      this.#stopTimer();
      // When the network is back, the pause ends.
      root.addEventListener?.("online", this.#wake);
      const socket = new WebSocket(target, this.#protocols ?? []);
      this.#socket = socket;
      socket.binaryType = this.#binaryType;
      // A handshake without end would keep us from ever trying again.
      this.#timer = setTimeout(() => this.#lost(socket, { code: 1006 }), this.#options.connectionTimeout);
      socket.onopen = () => {
        this.#stopTimer();
        this.#openedAt = this.#heardAt = performance.now();
        this.#pingLater(socket, this.#options.pingInterval);
        this.dispatchEvent(new Event("open"));
        // After what the listeners for "open" have sent: it may say who we are.
        while (this.#queue.length && socket.readyState === WebSocket.OPEN) socket.send(this.#queue.shift());
      };
      socket.onmessage = ({ data, origin }) => {
        this.#heardAt = performance.now();
        if (data !== PONG) this.dispatchEvent(new MessageEvent("message", { data, origin }));
      };
      socket.onerror = () => this.dispatchEvent(new Event("error"));
      socket.onclose = (event) => this.#lost(socket, event);
    }

    /* After some time, ping if nothing has arrived meanwhile; give the connection up if nothing arrives then, either.
       A proxy may have dropped it without a word. */
    #pingLater(socket, delay, pingedAt = null) {
      if (!this.#options.pingInterval) return;
      this.#pinger = setTimeout(() => {
        const { pingInterval, pingTimeout } = this.#options;
        const silence = performance.now() - this.#heardAt;
        if (pingedAt !== null && this.#heardAt < pingedAt) {
          this.#lost(socket, { code: 1006, reason: "no answer to a ping", wasClean: false });
        } else if (silence < pingInterval) {
          this.#pingLater(socket, pingInterval - silence);
        } else if (socket.readyState === WebSocket.OPEN) {
          const now = performance.now();
          socket.send(PING);
          this.#pingLater(socket, pingTimeout, now);
        }
      }, delay);
    }

    #lost(socket, { code, reason, wasClean }) {
      if (socket !== this.#socket) return;
      this.#stopTimer();
      clearTimeout(this.#pinger);
      socket.onopen = socket.onmessage = socket.onerror = socket.onclose = null;
      socket.close();
      this.#socket = null;
      const { minUptime, maxRetries } = this.#options;
      if (this.#openedAt !== null && performance.now() - this.#openedAt >= minUptime) this.#attempts = 0;
      this.#openedAt = null;
      const event = new CloseEvent("close", { code, reason, wasClean });
      if (this.#wanted && this.#attempts < maxRetries && this.#reconnects(event)) {
        this.#connectLater();
      } else {
        this.#wanted = false;
        root.removeEventListener?.("online", this.#wake);
      }
      this.dispatchEvent(event);
    }

    #reconnects(event) {
      try {
        return this.#options.shouldReconnect(event);
      } catch (error) {
        root.reportError(error);
        return true;
      }
    }

    /* Exponential back-off with jitter, so that not all clients reconnect at once after a restart. */
    #pause() {
      const { minReconnectionDelay, maxReconnectionDelay, reconnectionDelayGrowFactor } = this.#options;
      const longest = minReconnectionDelay * reconnectionDelayGrowFactor ** this.#attempts;
      return Math.min(maxReconnectionDelay, longest) * (0.5 + Math.random() / 2);
    }

    #stopTimer() {
      clearTimeout(this.#timer);
      this.#timer = 0;
    }
  }

  for (const name of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]) {
    const constant = { value: WebSocket[name], enumerable: true };
    Object.defineProperty(ReconnectingWebSocket, name, constant);
    Object.defineProperty(ReconnectingWebSocket.prototype, name, constant);
  }

  function address(url) {
    const full = new URL((typeof url === "function" ? url() : url) ?? "/", root.location.href);
    full.protocol = full.protocol.replace(/^http/, "ws");
    full.hash = "";
    return full.href;
  }

  /* JSON over a ReconnectingWebSocket, with or without streams.

     A frame {"stream": …, "payload": …}, as channelserver.generic and channelserver.binding send, goes to the listener of
     its stream. Everything else, and streams without a listener, go to the general one. */
  class WebSocketBridge {
    constructor(options) {
      this.options = { ...options };
      this.socket = null;
      this.streams = {};
      this.default_cb = null;
    }

    /* Connect; see ReconnectingWebSocket. Listeners may be added before or after. */
    connect(url, protocols, options) {
      this.socket?.close();
      this.socket = new ReconnectingWebSocket(url, protocols, { ...this.options, ...options });
      this.socket.addEventListener("message", (event) => this.#receive(event.data));
      return this.socket;
    }

    /* Have `callback(content, stream)` called for what no stream's listener takes; `stream` is null without one. */
    listen(callback) {
      this.default_cb = callback ?? null;
    }

    /* Have `callback(payload, stream)` called for what comes on a stream. */
    demultiplex(stream, callback) {
      this.streams[stream] = callback;
    }

    /* Send anything that JSON can say. While there is no connection, it is kept for the next one. */
    send(content) {
      if (!this.socket) throw new Error("call connect() before send()");
      this.socket.send(JSON.stringify(content));
    }

    /* Return what sends on a stream: stream("notes").send(payload). */
    stream(name) {
      return { send: (payload) => this.send({ stream: name, payload }) };
    }

    /* Close for good. */
    close(code, reason) {
      this.socket?.close(code, reason);
    }

    #receive(data) {
      const content = typeof data === "string" ? JSON.parse(data) : data;
      // A Blob has a method of that name.
      const framed = typeof data === "string" && content?.stream !== undefined;
      if (framed && Object.hasOwn(this.streams, content.stream)) {
        this.streams[content.stream](content.payload, content.stream);
      } else if (framed) {
        this.default_cb?.(content.payload, content.stream);
      } else {
        this.default_cb?.(content, null);
      }
    }
  }

  Object.assign(root.channels, { ReconnectingWebSocket, WebSocketBridge });
})();
