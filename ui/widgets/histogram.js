// The losses of all training images, with a line to drag: what lies right of it is the top K.
"use strict";

DebiasStudio.part("histogram", (model) => {
  const { el, svg, button, count, decimals } = DebiasStudio;
  const bars = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  const above = el("div", { class: "ds-above" });
  const line = el("div", { class: "ds-line", role: "slider", tabindex: "0", "aria-label": "Cut: how many images (K) lie above it" });
  const xs = el("div", { class: "ds-xs", "aria-hidden": "true" }), ys = el("div", { class: "ds-ys", "aria-hidden": "true" });
  const field = el("input", { type: "number", min: "1", step: "1", onchange: () => ask(Number(field.value)) });
  const each = el("input", { type: "checkbox", onchange: () => ask(model.audit.k) });
  const text = el("output", { class: "ds-k" });
  // As many as the bias classifier gives less than even odds: what lies beyond its explanation.
  const suggest = button("Suggest K", () => {
    each.checked = false;
    ask(model.audit.suggested);
  });
  const plot = el("div", { class: "ds-bins" }, bars, above, line);
  const node = el("section", { class: "ds-histogram", "aria-label": "Loss histogram" },
    el("div", { class: "ds-row" }, el("label", {}, "K ", field), el("label", {}, each, " in each class"), suggest, text),
    el("div", { class: "ds-chart" }, ys, plot, xs),
    el("p", { class: "ds-small" }, "Loss of each training image (bars: how many, logarithmic). "
      + "Drag the line to choose K; click a bar to see its images."));
  let timer = 0;

  // Positions are in bins, so that edges may be spaced in any way.
  const bins = () => model.audit.counts.length;
  const percent = (place) => `${(100 * place) / bins()}%`;
  function placeOf(loss) {
    const { edges } = model.audit;
    const i = Math.min(bins() - 1, Math.max(0, edges.findLastIndex((edge) => edge <= loss)));
    return Math.min(bins(), Math.max(0, i + (loss - edges[i]) / (edges[i + 1] - edges[i] || 1)));
  }
  /** How many images lie right of a place; within a bin they count as evenly spread. */
  function imagesAbove(place) {
    const i = Math.min(bins() - 1, Math.floor(place));
    const whole = model.audit.counts.slice(i + 1).reduce((sum, n) => sum + n, 0);
    return whole + model.audit.counts[i] * (i + 1 - place);
  }
  const most = () => Math.max(1, model.audit.n);
  const clip = (k) => Math.min(most(), Math.max(1, Math.round(k) || 1));

  function put(place, k, images) {
    line.style.left = above.style.left = percent(place);
    text.textContent = `K = ${count(k)}${model.audit.per_class ? " in each class" : ""}: ${count(images, "image")}`;
    line.setAttribute("aria-valuenow", k);
    line.setAttribute("aria-valuetext", text.textContent);
    field.value = k;
  }
  function ask(k) {
    clearTimeout(timer);
    model.setK(clip(k), each.checked);
  }
  function press(images) {
    // Keys come in quick succession: the line and the number follow at once, the server is asked once.
    clearTimeout(timer);
    const k = clip(images);
    put(placeOf(model.audit.cut), k, model.audit.per_class ? k * model.audit.classes.length : k);
    timer = setTimeout(ask, 400, k);
  }

  line.addEventListener("keydown", (event) => {
    const now = Number(field.value);
    const steps = { ArrowUp: 1, ArrowLeft: 1, ArrowDown: -1, ArrowRight: -1, PageUp: 10, PageDown: -10, Home: 1 - now };
    if (!(event.key in steps)) return;
    event.preventDefault();
    press(now + steps[event.key]);
  });
  line.addEventListener("pointerdown", (event) => {
    const box = plot.getBoundingClientRect();
    let k = null;
    const drag = (e) => {
      const place = (bins() * Math.min(box.width, Math.max(0, e.clientX - box.left))) / box.width;
      const images = Math.max(1, Math.round(imagesAbove(place)));
      k = clip(model.audit.per_class ? images / model.audit.classes.length : images);
      put(place, k, images);
    };
    line.setPointerCapture(event.pointerId);
    line.addEventListener("pointermove", drag);
    line.addEventListener("lostpointercapture", () => {
      line.removeEventListener("pointermove", drag);
      if (k !== null) ask(k);
    }, { once: true });
  });

  function pickBar(i) {
    const before = model.audit.counts.slice(i + 1).reduce((sum, n) => sum + n, 0);
    const rows = model.order.rows.slice(before, before + model.audit.counts[i]);
    if (rows.length) model.selection.set({ rows, origin: "histogram", at: rows[0] });
  }

  function draw() {
    const { counts, edges, cut, k, per_class: perClass } = model.audit;
    const highest = Math.max(1, ...counts), height = (n) => (100 * Math.log10(1 + n)) / Math.log10(1 + highest);
    bars.setAttribute("viewBox", `0 0 ${counts.length} 100`);
    bars.replaceChildren(...counts.map((n, i) =>
      // The whole column takes the click: a bar of one image is hard to hit.
      svg("g", { onclick: () => pickBar(i) },
        svg("rect", { class: "ds-column", x: i, y: 0, width: 1, height: 100 }),
        svg("rect", { x: i + 0.06, y: 100 - height(n), width: 0.88, height: height(n) }),
        svg("title", {}, `loss ${decimals(edges[i])} to ${decimals(edges[i + 1])}: ${count(n, "image")}`))));
    const step = Math.ceil(counts.length / 6);
    xs.replaceChildren(...edges.flatMap((edge, i) => (i % step ? [] : [el("span", { style: `left:${percent(i)}` }, decimals(edge))])));
    ys.replaceChildren(...[1, 10, 100, 1000, 10000, 100000].filter((n) => n <= highest).map((n) =>
      el("span", { style: `bottom:${height(n)}%` }, count(n))));
    each.checked = perClass;
    field.max = line.ariaValueMax = most();
    line.ariaValueMin = 1;
    put(placeOf(cut), k, model.order.top.length);
  }
  return { node, draw };
});
