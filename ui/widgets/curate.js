// Curate: source beside result, a verdict by key, and on to the next undecided one.
"use strict";

DebiasStudio.widget("curate", (ctx) => {
  const { el, button, address, picture, choice, dialog, count, decimals, sender, savedLine } = DebiasStudio;
  const VERDICTS = {
    accept: { key: "A", text: "Accept", sign: "✓", past: "accepted" },
    reject: { key: "R", text: "Reject", sign: "✕", past: "rejected" },
    skip: { key: "S", text: "Skip", sign: "↷", past: "skipped" },
  };
  const decided = (item) => item.verdict === "accept" || item.verdict === "reject";
  const FILTERS = {
    undecided: ["Undecided", (item) => !decided(item)], flagged: ["Flagged", (item) => item.flags.length > 0],
    accepted: ["Accepted", (item) => item.verdict === "accept"], rejected: ["Rejected", (item) => item.verdict === "reject"],
    all: ["All", () => true],
  };
  let data = null, list = [], at = 0, filter = "undecided", timer = 0, turn = 0;
  const saved = savedLine(), thumbs = new Map();

  const progress = el("progress", { "aria-label": "Images decided" }), told = el("span", { role: "status" });
  const filters = choice("Which images", Object.entries(FILTERS).map(([name, [text]]) => [name, text]), (name) => select(name));
  const figures = ["original", "content", "result"].map((name) => {
    const image = picture("", name, { loading: "eager" });
    return { name, image, node: el("figure", { class: `ds-${name}` }, image, el("figcaption", {}, name)) };
  });
  const label = el("p", { class: "ds-label" }), verdictText = el("p"), text = el("p"), flags = el("ul", { class: "ds-flags" });
  const buttons = Object.entries(VERDICTS).map(([verdict, { key, text: words }]) =>
    button([el("kbd", {}, key), ` ${words}`], () => decide(verdict), { class: `ds-${verdict}` }));
  const undoButton = button([el("kbd", {}, "U"), " Undo"], undo), help = button([el("kbd", {}, "?"), " Keys"], sheet);
  const strip = el("ul", { class: "ds-strip", "aria-label": "The images of this list" });
  const balance = el("tbody");
  const empty = el("p", { class: "ds-empty", role: "status" });
  const done = el("p", { class: "ds-empty", role: "status", hidden: true });
  const stage = el("div", { class: "ds-desk" },
    el("div", { class: "ds-figures" }, figures.map((f) => f.node)),
    el("div", {}, label, verdictText, text, flags, el("div", { class: "ds-row" }, buttons),
      el("div", { class: "ds-row" }, undoButton, button("‹", () => go(at - 1), { "aria-label": "Previous image" }),
        button("›", () => go(at + 1), { "aria-label": "Next image" }), help)));
  const main = el("div", { hidden: true },
    el("div", { class: "ds-row" }, progress, told, saved.node), el("div", { class: "ds-row" }, filters.node), done, stage, strip,
    el("table", { class: "ds-balance" }, el("caption", {}, "Images per class, before → with the accepted ones"),
      el("thead", {}, el("tr", {}, ["Class", "Before", "Accepted", "Undecided", "Rejected", "After", ""].map((name) =>
        name ? el("th", { scope: "col" }, name) : el("td")))), balance));
  ctx.body.append(empty, main);

  const outbox = sender(ctx, "verdicts", (batch) => ({ set: batch[0].set, verdicts: batch.map(({ set, ...rest }) => rest) }), {
    state: saved.state,
    done: (answer) => {
      Object.assign(data, { balance: answer.balance, can_undo: answer.can_undo });
      tables();
      changed();
    },
    refused: load,
  });
  function changed() {
    clearTimeout(timer);
    timer = setTimeout(() => ctx.trigger("changed", { project: ctx.project }), 800);
  }

  // --- Where we are. ---

  const thumb = (url) => url.replace(/^\/image\//, "/thumb/"); // the same image, smaller
  function select(name) {
    filter = name;
    list = data.items.filter(FILTERS[filter][1]);
    thumbs.clear();
    strip.replaceChildren(...list.map((item, i) => {
      const made = button([picture(thumb(item.result), `Synthetic image ${item.item}, label ${item.label}`), el("span")], () => go(i));
      thumbs.set(item, made);
      sign(item);
      return el("li", {}, made);
    }));
    at = 0;
    tables();
    const fresh = list.findIndex((item) => item.verdict === null);
    go(fresh >= 0 ? fresh : list.findIndex((item) => !decided(item)));
  }
  function sign(item) {
    const made = thumbs.get(item);
    if (!made) return;
    made.dataset.verdict = item.verdict ?? "";
    made.lastChild.textContent = (VERDICTS[item.verdict]?.sign ?? "") + (item.flags.length ? " ⚑" : "");
    made.title = [item.verdict ?? "undecided", ...item.flags.map((flag) => flag.name)].join(", ");
  }
  function go(to) {
    thumbs.get(list[at])?.removeAttribute("aria-current");
    at = Math.min(list.length - 1, Math.max(0, to));
    const item = list[at];
    stage.hidden = strip.hidden = !item;
    const left = data.items.filter((other) => !decided(other)).length;
    done.hidden = left > 0 && Boolean(item);
    done.textContent = left ? "No image is in this list."
      : "Every image is decided: train next, or look at them again by the lists above.";
    if (!item) return;
    for (const { name, image, node } of figures) {
      node.hidden = !item[name];
      if (item[name]) image.src = address(item[name]);
      image.alt = `${name} of synthetic image ${item.item}, label ${item.label}`;
    }
    for (const ahead of list.slice(at + 1, at + 3)) {
      for (const { name } of figures) if (ahead[name]) new Image().src = address(ahead[name]);
    }
    label.replaceChildren("label ", el("strong", {}, item.label));
    const { sign: mark, past } = VERDICTS[item.verdict] ?? { sign: "", past: "undecided" };
    verdictText.textContent = `${count(at + 1)} of ${count(list.length)} · ${mark} ${past} · label fidelity ${decimals(item.fidelity)}`;
    text.textContent = item.text;
    flags.replaceChildren(...item.flags.map((flag) => el("li", {}, "⚑ ", el("strong", {}, flag.name), ` ${flag.text}`)));
    const mine = thumbs.get(item);
    mine.setAttribute("aria-current", "true");
    // Not scrollIntoView: that would move the page as well.
    strip.scrollLeft = mine.offsetLeft - strip.clientWidth / 2;
  }
  function tables() {
    const { items } = data, ready = items.filter(decided).length;
    progress.max = items.length;
    progress.value = ready;
    told.textContent = `${count(ready)} of ${count(items.length)} decided`;
    for (const [name, [words, test]] of Object.entries(FILTERS)) {
      filters.buttons.get(name).textContent = `${words} (${count(items.filter(test).length)})`;
    }
    filters.press(filter);
    undoButton.disabled = !data.can_undo && !outbox.pending().length;
    const most = Math.max(1, ...data.balance.map((row) => row.originals + row.accepted + row.undecided));
    balance.replaceChildren(...data.balance.map((row) => el("tr", {}, el("th", { scope: "row" }, row.class),
      [row.originals, row.accepted, row.undecided, row.rejected, row.originals + row.accepted].map((n) => el("td", {}, count(n))),
      el("td", { class: "ds-bars", "aria-hidden": "true" }, ["originals", "accepted", "undecided"].map((part) =>
        el("i", { class: `ds-${part}`, style: `width:${(100 * row[part]) / most}%` }))))));
  }

  // --- Verdicts. ---

  function decide(verdict) {
    const item = list[at];
    if (!item) return;
    item.verdict = verdict;
    outbox.add({ set: data.set, item: item.item, verdict });
    sign(item);
    tables();
    // The next that was not looked at yet; then those skipped; else one further.
    const order = [...list.keys()].map((i) => (at + 1 + i) % list.length).slice(0, -1);
    const next = order.find((i) => list[i].verdict === null) ?? order.find((i) => list[i].verdict === "skip");
    go(next ?? at + 1);
  }
  async function undo() {
    await outbox.empty(); // the server undoes what it has
    const answer = await ctx.api("undo", { set: data.set }, { retry: false });
    if (!answer) return load();
    Object.assign(data, { balance: answer.balance, can_undo: answer.can_undo });
    const item = data.items.find((one) => one.item === answer.item);
    if (!item) return tables();
    item.verdict = answer.verdict;
    if (!list.includes(item)) select("all");
    sign(item);
    tables();
    go(list.indexOf(item));
    changed();
    return undefined;
  }
  function sheet() {
    const rows = [["A", "accept"], ["R", "reject"], ["S", "skip: decide later"], ["U", "undo the last verdict"],
      ["← →", "move without deciding"], ["?", "this sheet"]];
    const line = ([key, words]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, key)), el("td", {}, words));
    dialog("Keys", el("table", {}, rows.map(line)), [["", "Close"]]);
  }
  ctx.keys({
    a: () => decide("accept"), r: () => decide("reject"), s: () => decide("skip"), u: () => !undoButton.disabled && undo(),
    ArrowLeft: () => go(at - 1), ArrowRight: () => go(at + 1), "?": sheet,
  });

  async function load() {
    const mine = ++turn, answer = await ctx.api("curate");
    if (!answer || mine !== turn) return;
    const same = data && data.set === answer.set && data.items.length === answer.items.length;
    empty.hidden = Boolean(answer.set);
    main.hidden = !answer.set;
    empty.textContent = answer.reason;
    // Not acknowledged yet, so the answer may not know them.
    for (const { set, item, verdict } of outbox.pending()) {
      const one = set === answer.set && answer.items.find((other) => other.item === item);
      if (one) one.verdict = verdict;
    }
    if (same) {
      const verdicts = new Map(answer.items.map((item) => [item.item, item.verdict]));
      data.items.forEach((item) => { item.verdict = verdicts.get(item.item) ?? null; sign(item); });
      Object.assign(data, { balance: answer.balance, can_undo: answer.can_undo });
      tables();
      go(at);
    } else if (answer.set) {
      data = answer;
      select("undecided");
    }
  }
  return { update: load };
});
