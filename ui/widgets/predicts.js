// Audit: what tells the class before any training, a line a property, and the images that break the strongest.
"use strict";

DebiasStudio.widget("predicts", (ctx) => {
  const { el, svg, picture } = DebiasStudio;
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  let turn = 0;

  /** Accuracy as a bar, its interval as a line, chance as a tick. */
  function bar({ accuracy, low, high, chance }) {
    const x = (share) => `${100 * share}%`;
    const line = (from, to, y1, y2, kind) => svg("line", { x1: x(from), x2: x(to), y1, y2, class: kind });
    return svg("svg", { class: "ds-tells-bar", "aria-hidden": "true" },
      svg("rect", { width: "100%", height: "100%", class: "ds-tells-all" }),
      svg("rect", { width: x(accuracy), height: "100%", class: "ds-tells-part" }),
      line(low, high, 7, 7, "ds-tells-range"), line(chance, chance, 0, 14, "ds-tells-chance"));
  }
  const swatches = ({ colours }) => colours.length > 0 && el("span", { class: "ds-swatches" }, colours.map(([name, colour]) =>
    el("span", { class: "ds-swatch" }, svg("svg", { width: 14, height: 14, "aria-hidden": "true" },
      svg("rect", { width: 14, height: 14, rx: 3, fill: colour })), name)));
  const line = (clue, near) => el("li", {}, bar(clue), el("p", {}, clue.text),
    (clue.how || near) && el("p", { class: "ds-small" }, [clue.how, near].filter(Boolean).join(". ")), swatches(clue));
  const row = (clue) => el("tr", {}, el("th", { scope: "row" }, clue.label), el("td", {}, percent(clue.accuracy)),
    el("td", {}, `${percent(clue.low)} to ${percent(clue.high)}`), el("td", {}, clue.p < 0.001 ? "< 0.001" : clue.p.toFixed(3)),
    el("td", {}, clue.found ? "yes" : "no"));
  const broken = ({ given, said, thumb }, by) => el("figure", {}, picture(thumb, `${given}, looks like ${said} by ${by}`),
    el("figcaption", {}, el("strong", {}, given), `, looks like ${said}`));

  function show({ title, heading, note, lines, clues, breaks, breaks_title: breaksTitle }) {
    const heads = ["property", "right", "95 % interval", "p", "told"].map((text) => el("th", { scope: "col" }, text));
    ctx.body.replaceChildren(el("section", { class: "ds-tells", "aria-label": title },
      el("h3", { class: "ds-title" }, title), el("p", {}, heading),
      lines.length > 0 && el("ol", {}, lines.map(({ clue, near }) => line(clue, near))),
      breaks.length > 0 && el("p", { class: "ds-small" }, breaksTitle),
      breaks.length > 0 && el("div", { class: "ds-tells-breaks" }, breaks.map((one) => broken(one, lines[0].clue.label.toLowerCase()))),
      clues.length > 0 && el("details", {}, el("summary", {}, `All ${clues.length} properties, and how they were tested`),
        el("p", { class: "ds-small" }, note),
        el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, clues.map(row))))));
  }
  async function load() {
    const mine = ++turn;
    if (!ctx.body.firstChild) ctx.body.append(el("p", { class: "ds-empty", role: "status" }, "Measuring what tells the class…"));
    const answer = await ctx.api("predicts");
    if (answer && mine === turn) show(answer);
  }
  return { update: load };
});
