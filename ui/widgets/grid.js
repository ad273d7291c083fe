// A page of image cards: the top K, everything by loss, or what was selected elsewhere.
"use strict";

DebiasStudio.part("grid", (model) => {
  const { el, button, picture, choice, count, decimals } = DebiasStudio;
  const PAGE = 60;
  const FROM = { "top-K": "above the cut", all: "of the training part", map: "from the map", histogram: "from the histogram" };
  let page = 0, turn = 0, last = null, focus = false;
  const shown = new Map(); // row → its button, for the page in view

  const switcher = choice("Which images", [["top-K", "Top K"], ["all", "Everything by loss"], ["selection", "Selection"]], (which) => {
    if (which === "top-K") model.backToTop();
    else if (which === "all") model.selection.set({ rows: model.order.rows, origin: "all" });
    else model.selection.set(last);
  });
  const said = el("span", { role: "status" });
  const back = button("Back to top K", () => model.backToTop());
  const list = el("ul", { class: "ds-cards", onkeydown: arrows });
  const number = el("input", { type: "number", min: "1", onchange: () => turnTo(Number(number.value) - 1) });
  const pages = el("span"), range = el("span");
  const previous = button("‹ Previous", () => turnTo(page - 1)), next = button("Next ›", () => turnTo(page + 1));
  const node = el("section", { class: "ds-grid", "aria-label": "Images" },
    el("div", { class: "ds-row" }, switcher.node, model.saved),
    el("div", { class: "ds-row ds-from" }, said, back),
    el("div", { class: "ds-row ds-pager" }, previous, el("label", {}, "Page ", number), pages, next, range),
    list);

  const rows = () => model.selection.get().rows;
  const lastPage = () => Math.max(0, Math.ceil(rows().length / PAGE) - 1);
  const slice = (p) => rows().slice(p * PAGE, (p + 1) * PAGE);

  const unseen = (text) => el("span", { class: "ds-hidden" }, text);
  function card(one) {
    return button([
      el("span", { class: "ds-pic" }, picture(one.thumb, `Training image ${one.id}`), el("span", { class: "ds-mark" })),
      el("span", { class: "ds-rank" }, el("span", {}, unseen("rank "), `${count(one.rank)}.`), el("span", {}, unseen("loss "), decimals(one.loss))),
      el("span", { class: "ds-names", title: `label ${one.given}, predicted ${one.predicted}` },
        el("span", {}, unseen("label "), one.given), el("span", {}, "→ ", unseen("predicted "), one.predicted, one.right ? " ✓" : "")),
    ], () => model.selection.set({ at: one.row }), { class: "ds-card", tabindex: "-1" });
  }
  function badge(row) {
    const sign = shown.get(row)?.querySelector(".ds-mark"), mark = model.MARKS[model.marks.get(row)];
    if (!sign) return;
    sign.textContent = mark ? `${mark.sign} ${mark.short}` : "";
    sign.dataset.mark = model.marks.get(row) ?? "";
  }
  function current() {
    const { at } = model.selection.get();
    const target = shown.has(at) ? at : shown.keys().next().value;
    shown.forEach((made, row) => {
      made.tabIndex = row === target ? 0 : -1; // one stop for the Tab key, arrows inside
      if (row === at) made.setAttribute("aria-current", "true");
      else made.removeAttribute("aria-current");
    });
    if (focus) shown.get(target)?.focus();
    focus = false;
  }

  async function show() {
    const mine = ++turn, wanted = slice(page), { rows: all, origin } = model.selection.get();
    switcher.press(origin === "top-K" || origin === "all" ? origin : "selection");
    switcher.buttons.get("selection").disabled = !last;
    switcher.buttons.get("selection").textContent = last ? `Selection (${count(last.rows.length)})` : "Selection";
    said.textContent = `${count(all.length, "image")} ${FROM[origin] ?? origin}, highest loss first.`;
    back.hidden = origin === "top-K";
    number.value = page + 1;
    number.max = lastPage() + 1;
    pages.textContent = `of ${count(lastPage() + 1)}`;
    range.textContent = all.length ? `Images ${count(page * PAGE + 1)} to ${count(page * PAGE + wanted.length)}` : "";
    previous.disabled = page === 0;
    next.disabled = page === lastPage();
    list.setAttribute("aria-busy", "true");
    const cards = await model.cards(wanted);
    if (mine !== turn || !cards) return;
    shown.clear();
    list.replaceChildren(...wanted.filter((row) => cards.has(row)).map((row) => {
      shown.set(row, card(cards.get(row)));
      return el("li", {}, shown.get(row));
    }));
    if (!wanted.length) list.append(el("li", { class: "ds-empty" }, "No image lies here."));
    list.removeAttribute("aria-busy");
    wanted.forEach(badge);
    current();
    model.cards(slice(page + 1)); // the next page is then there at once
  }
  function turnTo(p) {
    page = Math.min(lastPage(), Math.max(0, Math.round(p) || 0));
    list.scrollTop = 0;
    return show();
  }
  function arrows(event) {
    const order = [...shown.keys()], from = order.indexOf(model.selection.get().at);
    const first = shown.get(order[0])?.offsetTop;
    const columns = order.filter((row) => shown.get(row).offsetTop === first).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -from, End: order.length - 1 - from };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const to = page * PAGE + Math.max(0, from) + steps[event.key];
    if (to < 0 || to >= rows().length) return;
    focus = true;
    model.selection.set({ at: rows()[to] });
  }

  model.selection.subscribe((now, before) => {
    if (now.origin !== "top-K" && now.origin !== "all") last = { rows: now.rows, origin: now.origin };
    const moved = now.rows !== before.rows;
    if (moved) page = 0;
    if (now.at !== before.at && !shown.has(now.at)) {
      const place = now.rows.indexOf(now.at);
      if (place >= 0 && Math.floor(place / PAGE) !== page) return void turnTo(Math.floor(place / PAGE));
    }
    if (moved) turnTo(0);
    else current();
  });
  const forget = () => { last = null; };
  return { node, draw: show, marked: badge, forget };
});
