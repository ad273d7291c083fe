// One image, large: where the classifier looks, how to mark it, and its nearest neighbours.
"use strict";

DebiasStudio.part("detail", (model) => {
  const { el, button, picture, choice } = DebiasStudio;
  const images = el("div", { class: "ds-large" }), text = el("p"), heatText = el("p", { class: "ds-small" });
  const options = Object.entries(model.MARKS).map(([mark, { key, sign, text: words }]) =>
    [mark, [el("kbd", {}, key), ` ${sign} ${words}`]]);
  const marks = choice("Mark this image", [...options, ["none", [el("kbd", {}, "0"), " no mark"]]],
    (mark) => model.mark(mark === "none" ? null : mark));
  const near = el("ul", { class: "ds-near" });
  const nearTitle = el("p", { class: "ds-title" }, "Nearest neighbours");
  const node = el("section", { class: "ds-detail", "aria-label": "The chosen image" }, images, text, heatText, marks.node, nearTitle, near);
  let timer = 0, turn = 0;

  const figure = (url, alt, caption) => el("figure", {}, picture(url, alt), el("figcaption", {}, caption));

  async function show() {
    const { at } = model.selection.get(), mine = ++turn;
    if (at === null) return;
    node.setAttribute("aria-busy", "true");
    const it = await model.ctx.api(`detail/${at}`);
    if (mine !== turn) return;
    node.removeAttribute("aria-busy");
    if (!it) return;
    images.replaceChildren(figure(it.image, `Training image ${it.id}`, `label ${it.given}`),
      it.heat ? figure(it.heat, "The same image, coloured where the classifier looks", "where it looks") : el("figure", { class: "ds-none" }, "No heat map"));
    text.textContent = it.text;
    heatText.textContent = it.heat_text;
    nearTitle.hidden = !it.neighbours.length;
    near.replaceChildren(...it.neighbours.map((card) => el("li", {},
      button([picture(card.thumb, `Training image ${card.id}`), el("span", {}, `${card.given} → ${card.predicted}`)],
        () => model.selection.set({ at: card.row })))));
    marked();
  }
  const marked = () => marks.press(model.marks.get(model.selection.get().at) ?? "none");

  model.selection.subscribe((now, before) => {
    if (now.at === before.at) return;
    marked();
    clearTimeout(timer);
    timer = setTimeout(show, 120); // arrows held down pass many images; the heat map is for the last
  });
  return { node, draw: show, marked };
});
