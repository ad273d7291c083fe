// Augment: the γ × t_edit grid; a click adopts a cell's settings.
"use strict";

DebiasStudio.widget("cells", (ctx) => {
  const { el, button, picture } = DebiasStudio;
  const table = el("table", { class: "ds-compare" });
  ctx.body.append(el("div", { class: "ds-scroll" }, table), el("p", { class: "ds-small" }, "Click a picture to use its settings."));

  // Python writes 1.0 where JavaScript writes 1: keys are compared as numbers.
  const keyOf = (gamma, tEdit) => `${Number(gamma)}|${Number(tEdit)}`;
  const isImage = (url) => /^(data:image\/(png|jpeg|webp);|\/(?!\/))/.test(url);

  function update(value) {
    const { gammas = [], t_edits: tEdits = [], cells = {}, gamma, t_edit: tEdit } = value;
    const urls = new Map(Object.entries(cells).map(([key, url]) => [keyOf(...key.split("|")), url]));
    const focused = table.contains(document.activeElement) && document.activeElement.dataset.key;
    const cell = (g, t) => {
      const key = keyOf(g, t), url = urls.get(key), adopted = key === keyOf(gamma, tEdit);
      const content = url && isImage(url) ? picture(url, `γ ${g}, t_edit ${t}`)
        : el("span", { class: "ds-none" }, el("span", { class: "ds-hidden" }, `γ ${g}, t_edit ${t} `), "not drawn");
      return el("td", {}, button([content, adopted ? el("span", { class: "ds-adopted" }, "✓ in use") : null],
        () => {
          ctx.trigger("adopt", { gamma: g, t_edit: t });
          update({ ...value, gamma: g, t_edit: t }); // Python moves the sliders, not this grid
        }, { "aria-pressed": adopted, "data-key": key }));
    };
    table.replaceChildren(
      el("thead", {}, el("tr", {}, el("td", {}, "t_edit ↓ γ →"), gammas.map((g) => el("th", { scope: "col" }, `γ ${g}`)))),
      el("tbody", {}, tEdits.map((t) => el("tr", {}, el("th", { scope: "row" }, `t ${t}`), gammas.map((g) => cell(g, t))))));
    table.hidden = !gammas.length;
    if (focused) table.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
  return { update };
});
