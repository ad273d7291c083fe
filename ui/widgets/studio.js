// What every widget uses: nodes, requests, keys, the store, and saving without loss.
"use strict";

window.DebiasStudio = (() => {
  const makers = {}, parts = {};
  const AWAY = "The server does not answer; trying again…";
  const FIELDS = "input, textarea, select, [contenteditable]:not([contenteditable=false])";
  // Elements that move by arrow keys of their own. Gradio's tabs don't, and the tab that was clicked
  // to come here still has the focus.
  const ARROWS = "[role=slider], [role=listbox], [role=radio], [role=menu]";

  // --- Nodes. Text from outside becomes a text node, never markup. ---

  const maker = (create) => (tag, props, ...children) => {
    const node = create(tag);
    for (const [name, value] of Object.entries(props ?? {})) {
      if (typeof value === "function") node.addEventListener(name.slice(2), value); // onclick: f
      else if (name.startsWith("aria-")) node.setAttribute(name, String(value));
      else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child != null && child !== false));
    return node;
  };
  const el = maker((tag) => document.createElement(tag));
  const svg = maker((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  const button = (label, onclick, props) => el("button", { type: "button", onclick, ...props }, label);
  let prefix = ""; // the path under which a proxy serves the page
  /** The browser's address of what the server calls "/…"; other addresses are as they are. */
  const address = (url) => (url.startsWith("/") ? prefix + url : url);
  const picture = (url, alt, props) =>
    el("img", { src: address(url), alt, loading: "lazy", decoding: "async", draggable: "false", ...props });

  /** A row of buttons of which one is pressed. */
  function choice(label, options, pick) {
    const buttons = new Map(options.map(([value, text]) => [value, button(text, () => pick(value))]));
    const node = el("div", { class: "ds-choice", role: "group", "aria-label": label }, ...buttons.values());
    const press = (now) => buttons.forEach((b, value) => b.setAttribute("aria-pressed", value === now));
    return { node, buttons, press };
  }

  /** A modal box; resolves to the value of the button that closed it, "" for Escape. */
  function dialog(title, content, answers) {
    return new Promise((resolve) => {
      const buttons = answers.map(([value, text]) => button(text, () => box.close(value)));
      const box = el("dialog", { class: "ds ds-dialog", "aria-label": title }, el("p", { class: "ds-title" }, title),
        content, el("div", { class: "ds-row" }, buttons));
      box.addEventListener("close", () => { box.remove(); resolve(box.returnValue); });
      document.body.append(box);
      box.showModal();
    });
  }

  // --- Numbers as a person reads them. ---

  const count = (n, one, many = `${one}s`) =>
    n.toLocaleString("en") + (one ? ` ${n === 1 ? one : many}` : "");
  const decimals = (x) => (x == null ? "?" : Math.abs(x) >= 100 ? x.toFixed(0) : x.toFixed(2));
  const duration = (s) =>
    s < 90 ? `${Math.max(1, Math.round(s))} s`
      : s < 5400 ? `${Math.round(s / 60)} min`
        : `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;

  /** One state with listeners: listener(now, before). */
  function store(state) {
    const listeners = new Set();
    return {
      get: () => state,
      subscribe: (listener) => listeners.add(listener),
      set(change) {
        const before = state;
        state = { ...state, ...change };
        listeners.forEach((listener) => listener(state, before));
      },
    };
  }

  // --- Requests. ---

  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  const outboxes = new Set();

  function signIn() {
    // A reload leads to the login page. Not while verdicts wait, which it would lose, and not twice in
    // a row, should the page itself still be served.
    const last = Number(sessionStorage.getItem("debias-401"));
    if (Date.now() - last < 10000 || [...outboxes].some((outbox) => outbox.pending().length)) return;
    sessionStorage.setItem("debias-401", Date.now());
    location.reload();
  }

  /** One request; status 0 means that the server was not reached. */
  async function send(project, path, body, keepalive = false) {
    const url = address(`/api/${encodeURIComponent(project)}/${path}`);
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, keepalive };
    let response;
    try {
      response = await fetch(url, body === undefined ? {} : { ...post, body: JSON.stringify(body) });
    } catch {
      return { status: 0 };
    }
    const { status } = response, answer = await response.json().catch(() => null);
    if (status === 401) signIn();
    const ok = response.ok && answer !== null, away = [502, 503, 504].includes(status);
    const error = ok ? "" : status === 401 ? "You are signed out: sign in again in another tab."
      : answer?.error || `The server answered with an error (${status}).`;
    return { status: away ? 0 : status, ok, answer, error };
  }

  /** Small writes that must not get lost: kept until acknowledged, sent in order, in batches.

      body(batch) makes the request; each item has a key of its own, so that the server can tell a
      repetition. state("saving" | "saved" | "trying") and done(answer) report; refused() reloads. */
  function sender({ project, say, clear }, path, body, { state, done, refused }) {
    let waiting = [], busy = false, wait = 250;
    let idle = []; // who waits for the queue to be empty

    async function run() {
      busy = true;
      for (await sleep(wait); waiting.length; await sleep(wait)) {
        const batch = waiting.slice(0, 100);
        const { status, ok, answer, error } = await send(project, path, body(batch));
        if (!ok && ([0, 401, 408, 429].includes(status) || status >= 500)) {
          wait = Math.min(2 * wait, 8000);
          state("trying");
          continue;
        }
        wait = 250;
        waiting = waiting.slice(batch.length);
        if (!waiting.length) state("saved");
        if (ok) {
          clear(path);
          done(answer);
        } else {
          say(error, path);
          refused();
        }
      }
      busy = false;
      idle.forEach((resolve) => resolve());
      idle = [];
    }
    const flush = () => waiting.length && send(project, path, body(waiting), true);
    window.addEventListener("pagehide", flush);
    window.addEventListener("beforeunload", (event) => { if (waiting.length && wait > 250) event.preventDefault(); });
    const outbox = {
      pending: () => waiting,
      empty: () => (waiting.length || busy ? new Promise((resolve) => idle.push(resolve)) : Promise.resolve()),
      add(item) {
        // Not randomUUID: that exists on https and localhost only.
        const key = [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("-");
        waiting = [...waiting, { key, ...item }];
        state("saving");
        if (!busy) run();
      },
    };
    outboxes.add(outbox);
    return outbox;
  }

  /** "saving… / saved ✓ / not saved": a line for the sender's state. */
  function savedLine() {
    const node = el("span", { class: "ds-saved", role: "status" });
    const words = { saving: "saving…", saved: "saved ✓", trying: "not saved, trying again…" };
    return { node, state: (now) => { node.textContent = words[now]; node.dataset.state = now; } };
  }

  let plotly;
  /** plotly.js, fetched when the first plot needs it. */
  const loadPlotly = (library) => (plotly ??= new Promise((resolve, reject) => {
    const done = () => resolve(window.Plotly);
    document.head.append(el("script", { src: library, onload: done, onerror: () => { plotly = null; reject(new Error()); } }));
  }));

  // --- A widget in the page. ---

  function begin(name, root, project, trigger, library) {
    const over = new AbortController();
    const bar = el("div", { class: "ds-bar", role: "alert", hidden: true });
    const body = el("div", { class: "ds-body" });
    root.replaceChildren(el("div", { class: "ds-messages" }, bar), body);
    const alive = () => root.isConnected && !over.signal.aborted;
    const visible = () => alive() && root.checkVisibility();

    /** Show a message until it is closed, or until what it is about goes well. */
    function say(text, about, kind = "error") {
      bar.hidden = false;
      Object.assign(bar.dataset, { kind, about });
      bar.replaceChildren(text, kind === "error" ? button("×", () => clear(about), { "aria-label": "Close the message" }) : "");
    }
    function clear(about) {
      if (bar.dataset.about === about || bar.dataset.kind === "away") bar.hidden = true;
    }

    /** The answer, or null after showing why there is none. retry: false where twice would be wrong. */
    async function api(path, body, { retry = true } = {}) {
      const about = path.split(/[/?]/)[0];
      for (let wait = 500; alive(); wait = Math.min(2 * wait, 8000)) {
        const { status, ok, answer, error } = await send(project, path, body);
        if (status) {
          if (ok) clear(about);
          else say(error, about);
          return ok ? answer : null;
        }
        if (!retry) return say("The server does not answer. Try again in a moment.", about), null;
        say(AWAY, about, "away");
        await sleep(wait);
      }
      return null;
    }

    const on = (target, type, listener) =>
      target.addEventListener(type, (event) => (alive() ? listener(event) : over.abort()), { signal: over.signal });

    /** Keys of the page while this widget is the one that is seen; {"a": action, "ArrowLeft": …}. */
    const keys = (actions) => on(document, "keydown", (event) => {
      const arrow = event.key.startsWith("Arrow"), at = event.composedPath()[0];
      const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!action || !visible() || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (at.closest?.(FIELDS) || (arrow && at.closest?.(ARROWS)) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      if (arrow || !event.repeat) action(); // a key held down is one verdict, not ten
    });

    /** Runs `look` now and then every pause() ms; never twice at once, however often it is called. */
    function poll(look, pause) {
      let timer = 0, busy = false, again = false;
      return async function now() {
        clearTimeout(timer);
        again = busy;
        if (busy) return;
        busy = true;
        do {
          again = false;
          await look();
        } while (again);
        busy = false;
        if (alive()) timer = setTimeout(now, pause());
      };
    }

    /** The library, once `plot` shows the traces and follows the size of its box; null if it can't. */
    async function draw(plot, traces, layout) {
      const Plotly = await loadPlotly(library).catch(() => say("The drawing library could not be loaded. Reload the page.", "plot"));
      if (!Plotly || !alive()) return null;
      const { color } = getComputedStyle(root), first = !plot.data;
      await Plotly.react(plot, traces, { paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false,
        font: { color, family: "system-ui, sans-serif", size: 12 }, ...layout }, { displayModeBar: false, doubleClick: false });
      // The library's own `responsive` follows the window, and misses what happens in a hidden tab.
      if (first) new ResizeObserver(() => visible() && Plotly.Plots.resize(plot)).observe(plot);
      return Plotly;
    }
    const ctx = { root, body, project, trigger, say, clear, api, on, keys, poll, alive, visible, draw };
    return { project, end: () => over.abort(), ...makers[name](ctx) };
  }

  // Gradio ends its event stream on beforeunload, which a link to a download fires as well: whatever was
  // under way would be lost. With `download` the click doesn't leave the page.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]"), href = link?.getAttribute("href") ?? "";
    if (["/download/", "/report/", "/table/"].some((path) => href.startsWith(address(path)))) link.download = "";
  }, true);

  let library;
  /** Called by each gr.HTML when it is rendered, and again should Gradio render it anew. */
  function mount(name, element, props, trigger, watch) {
    const root = element.querySelector(".ds");
    let widget = null, due = true;
    function look() {
      const { value } = props, project = value?.project ?? ""; // not every widget asks the server
      if (!due || !value || !root.checkVisibility()) return;
      due = false;
      root.removeAttribute("aria-busy");
      if (widget?.project !== project) {
        widget?.end();
        widget = begin(name, root, project, trigger, library);
      }
      widget.update(value);
    }
    watch("value", () => { due = true; look(); });
    // What changes in a hidden tab is fetched when the tab is shown.
    new IntersectionObserver(look).observe(root);
    look();
  }

  return {
    el, svg, button, address, picture, choice, dialog, count, decimals, duration, store, sender, savedLine, parts, mount,
    widget: (name, make) => { makers[name] = make; },
    part: (name, make) => { parts[name] = make; },
    // The last line of the served script: everything is registered.
    begin: (under, where) => {
      prefix = under;
      library = where;
      window.DebiasStudio.ready = true;
      window.dispatchEvent(new Event("debias-studio"));
    },
  };
})();
