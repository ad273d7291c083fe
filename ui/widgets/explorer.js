// Audit: histogram, grid, map and detail over one selection, and the panel "What do these share?".
"use strict";

DebiasStudio.widget("explorer", (ctx) => {
  const { el, button, count, decimals, store, sender, savedLine, parts } = DebiasStudio;
  const saved = savedLine();
  const model = {
    ctx, saved: saved.node, audit: null, order: null, edition: 0, marks: new Map(),
    MARKS: {
      conflict: { key: "1", sign: "!", short: "conflict", text: "true conflict" },
      label: { key: "2", sign: "≠", short: "label", text: "wrong label" },
      junk: { key: "3", sign: "✕", short: "junk", text: "junk" },
    },
    // The one selection: rows in order of loss, where they came from, and the image that is looked at.
    selection: store({ rows: [], origin: "top-K", at: null }),
    backToTop: () => model.selection.set({ rows: model.order.top, origin: "top-K", at: model.order.top[0] ?? null }),
    cards, mark, setK,
  };
  let known = new Map(); // cards by row
  let turn = 0, timer = 0;

  // --- Marks: seen at once, sent in batches. ---

  const outbox = sender(ctx, "marks", (marks) => ({ marks }), {
    state: saved.state,
    done: (answer) => {
      adoptMarks(answer.marks);
      changed(800);
    },
    refused: load,
  });
  function changed(after) {
    // Python redraws whole tabs: once after a run of marks, not after each.
    clearTimeout(timer);
    timer = setTimeout(() => ctx.trigger("changed", { project: ctx.project }), after);
  }
  function adoptMarks(fromServer) {
    const before = model.marks;
    model.marks = new Map(Object.entries(fromServer).map(([row, mark]) => [Number(row), mark]));
    for (const { row, mark } of outbox.pending()) setMark(row, mark);
    const rows = new Set([...before.keys(), ...model.marks.keys()]);
    const differ = [...rows].filter((row) => before.get(row) !== model.marks.get(row));
    differ.forEach(grid.marked);
    if (differ.length) [map, detail].forEach((part) => part.marked());
  }
  const setMark = (row, mark) => (mark === null ? model.marks.delete(row) : model.marks.set(row, mark));
  function mark(value) {
    const { at } = model.selection.get();
    if (at === null) return;
    setMark(at, value);
    outbox.add({ row: at, mark: value });
    [grid, map, detail].forEach((part) => part.marked(at));
  }
  ctx.keys({ 0: () => mark(null), 1: () => mark("conflict"), 2: () => mark("label"), 3: () => mark("junk") });

  // --- Data. ---

  /** Cards of some rows, fetched where they are not known yet; null when the server refuses. */
  async function cards(rows) {
    const mine = known, missing = rows.filter((row) => !mine.has(row));
    const answer = missing.length ? await ctx.api("cards", { rows: missing }) : { cards: [] };
    answer?.cards.forEach((card) => mine.set(card.row, card));
    return answer && mine;
  }
  async function setK(k, perClass) {
    const answer = await ctx.api("k", { k, per_class: perClass });
    if (answer && (await adopt(answer))) changed(0);
    else if (model.order) histogram.draw(); // the line goes back to where the cut is
  }
  async function load() {
    const answer = await ctx.api("audit");
    if (answer) await adopt(answer);
  }
  async function adopt(audit) {
    const mine = ++turn, old = model.audit;
    empty.hidden = audit.ready;
    main.hidden = !audit.ready;
    if (!audit.ready) return false;
    const moved = ["version", "k", "per_class", "cut"].some((name) => old?.[name] !== audit[name]);
    const order = moved ? await ctx.api("order") : model.order;
    if (!order || mine !== turn) return false;
    // Another K may count as another version: only another ranking is another audit.
    const fresh = old?.ranking !== audit.ranking || !model.order;
    if (fresh) {
      known = new Map();
      model.edition += 1;
      grid.forget();
    }
    Object.assign(model, { audit, order });
    if (moved) histogram.draw();
    if (fresh) await cards(order.top.slice(0, 60)); // the images first, the map and its library after
    if (fresh || (moved && model.selection.get().origin === "top-K")) model.backToTop();
    adoptMarks(audit.marks);
    if (moved || audit.maps.length !== old.maps.length) map.draw();
    return true;
  }

  // --- What do these share? ---

  const what = button("What do these share?", ask), found = el("div", { role: "status" });
  const panel = el("section", { class: "ds-share", "aria-label": "What do these share?" }, el("div", { class: "ds-row" }, what), found);
  async function ask() {
    const { rows } = model.selection.get();
    what.disabled = true;
    found.replaceChildren(el("p", {}, "Comparing…"));
    const answer = await ctx.api("share", { rows });
    what.disabled = false;
    found.replaceChildren();
    if (!answer || rows !== model.selection.get().rows) return;
    // Each sentence names its class and its counts.
    const strength = ({ effect, p }) => `effect ${decimals(effect)}, p ${p < 0.001 ? "< 0.001" : `= ${p.toFixed(3)}`}`;
    found.append(el("p", {}, el("strong", {}, answer.text || "Nothing stands out.")),
      el("ul", {}, answer.findings.map((f) => el("li", {}, f.text, " ", el("span", { class: "ds-small" }, strength(f))))),
      el("p", { class: "ds-small" }, answer.note));
    if (!answer.remedy) return;
    const { method, text, button: label } = answer.remedy;
    found.append(el("p", { class: "ds-remedy" }, text), button(label, () => ctx.trigger("remedy", { method })));
  }
  model.selection.subscribe((now, before) => {
    if (now.rows === before.rows) return;
    found.replaceChildren();
    what.textContent = `What do these ${count(now.rows.length)} share?`;
    what.disabled = now.origin === "all" || !now.rows.length;
  });

  const histogram = parts.histogram(model), grid = parts.grid(model), detail = parts.detail(model), map = parts.map(model);
  const empty = el("p", { class: "ds-empty", hidden: true }, "Not audited yet: run the audit, then its images are shown here.");
  const main = el("div", { class: "ds-explorer-main", hidden: true },
    el("div", { class: "ds-left" }, histogram.node, grid.node, panel), el("div", { class: "ds-right" }, detail.node, map.node));
  ctx.body.append(empty, main);
  return { update: load };
});
