// The training images as points: colour is the class, rings are the top K; lasso some to see them.
"use strict";

DebiasStudio.part("map", (model) => {
  const { el, svg, button, picture, choice } = DebiasStudio;
  // As in debias_core/insight/figures.py, so that the report's maps have the same colours.
  const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F", "#7F7F7F", "#5E3C99", "#1B7837"];
  const SHAPES = ["circle", "square", "diamond", "triangle-up"], GLYPHS = ["●", "■", "◆", "▲"];
  const SIGNS = { conflict: "★", label: "✕", junk: "✚" };
  const RINGS = 2000; // more rings than this hide the points
  const MARGIN = 4;
  const NOTES = { pca: "PCA: the two directions in which the images differ most.",
    tsne: "Distances between far islands of a t-SNE mean little." };
  let kind = "pca", drawn = "", points = null, where = null, traces = [], plotly = null, turn = 0;
  const hidden = new Set(); // classes

  const kinds = choice("Kind of map", [["pca", "PCA"], ["tsne", "t-SNE"]], (to) => { kind = to; draw(); });
  const tools = choice("What dragging does", [["lasso", "Lasso"], ["select", "Box"], ["zoom", "Zoom"], ["pan", "Move"]], (to) => drag(to));
  const whole = button("Whole map", () => plotly?.relayout(plot, { "xaxis.range": span(points.x), "yaxis.range": span(points.y) }));
  const plot = el("div", { class: "ds-plot", role: "img", "aria-label": "Map of the training images. What you select on it is listed in the grid." });
  const rings = svg("svg", { class: "ds-rings", "aria-hidden": "true" });
  const peek = el("div", { class: "ds-peek", hidden: true, "aria-hidden": "true" });
  const legend = el("div", { class: "ds-legend", role: "group", "aria-label": "Classes on the map" });
  const note = el("p", { class: "ds-small" });
  const node = el("section", { class: "ds-map", "aria-label": "Map" },
    el("div", { class: "ds-row" }, tools.node, whole, kinds.node),
    el("div", { class: "ds-stage" }, plot, rings, peek), legend, note);

  function drag(mode) {
    tools.press(mode);
    plotly?.relayout(plot, { dragmode: mode });
  }

  /** The values' range with some air. */
  function span(values) {
    const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const air = 0.04 * (high - low) || 1;
    return [low - air, high + air];
  }
  const seen = (row) => where[row] >= 0 && !hidden.has(points.label[where[row]]);

  /** Rings, marks and the current image, in a layer of their own: a redraw of all points takes half a
      second without a graphics card, and these change with every click. */
  function overlay() {
    const [x0, x1] = plot.layout.xaxis.range, [y0, y1] = plot.layout.yaxis.range;
    const width = plot.clientWidth - 2 * MARGIN, height = plot.clientHeight - 2 * MARGIN;
    const place = (row) => ({
      x: MARGIN + (width * (points.x[where[row]] - x0)) / (x1 - x0), y: MARGIN + (height * (y1 - points.y[where[row]])) / (y1 - y0),
    });
    const ring = (row, r, props) => svg("circle", { cx: place(row).x, cy: place(row).y, r, ...props });
    const { at } = model.selection.get();
    rings.replaceChildren(
      ...model.order.top.slice(0, RINGS).filter(seen).map((row) => ring(row, 5, { fill: COLOURS[points.label[where[row]] % 10] })),
      ...[...model.marks].filter(([row]) => seen(row)).map(([row, mark]) => svg("text", place(row), SIGNS[mark])),
      ...(at !== null && seen(at) ? [ring(at, 11, { class: "ds-at" })] : []));
    rings.style.visibility = "";
  }
  function restyle() {
    if (!drawn) return;
    const { rows, origin } = model.selection.get(), all = origin === "top-K" || origin === "all";
    const chosen = new Uint8Array(where.length);
    rows.forEach((row) => { chosen[row] = 1; });
    const picked = traces.map((trace) => (all ? null : trace.flatMap((row, i) => (chosen[row] ? [i] : []))));
    plotly.restyle(plot, { selectedpoints: picked }, traces.map((_, c) => c));
  }

  async function draw() {
    const { audit } = model, mine = ++turn;
    if (!audit.maps.includes(kind)) kind = audit.maps[0];
    kinds.node.hidden = audit.maps.length < 2;
    kinds.press(kind);
    const wanted = `${model.edition} ${kind}`;
    const say = (rule) => { note.textContent = `Draw around some points to list them in the grid. Rings: top K. ★ true conflict, ✕ wrong label, ✚ junk. ${NOTES[kind] ?? ""} ${rule}`; };
    say(drawn === wanted ? points.rule : "");
    if (!kind || drawn === wanted) return drawn && overlay();
    const answer = await model.ctx.api(`points?map=${kind}`);
    if (!answer || mine !== turn) return undefined;
    points = answer;
    say(points.rule);
    where = new Int32Array(audit.n).fill(-1);
    points.rows.forEach((row, i) => { where[row] = i; });
    traces = audit.classes.map((_, c) => points.rows.filter((_, i) => points.label[i] === c));
    const size = points.rows.length > 10000 ? 4 : points.rows.length > 2000 ? 5 : 7;
    const data = traces.map((rows, c) => ({
      type: "scattergl", mode: "markers", hoverinfo: "none", visible: !hidden.has(c),
      x: rows.map((row) => points.x[where[row]]), y: rows.map((row) => points.y[where[row]]),
      marker: { color: COLOURS[c % 10], symbol: SHAPES[Math.floor(c / 10) % 4], size, opacity: 0.75 },
      selected: { marker: { opacity: 1 } }, unselected: { marker: { opacity: 0.12 } },
    }));
    const axis = (values) => ({ visible: false, zeroline: false, range: span(values) });
    plotly = await model.ctx.draw(plot, data, {
      margin: { l: MARGIN, r: MARGIN, t: MARGIN, b: MARGIN }, xaxis: axis(points.x), yaxis: axis(points.y),
      hovermode: "closest", dragmode: "lasso", uirevision: wanted, newselection: { line: { width: 2, dash: "dot" } },
    });
    if (!plotly) return undefined;
    if (!drawn) listen();
    drawn = wanted;
    drag("lasso");
    names();
    overlay();
    return restyle();
  }

  function names() {
    legend.replaceChildren(...model.audit.classes.map((name, c) => {
      const glyph = el("span", { style: `color:${COLOURS[c % 10]}`, "aria-hidden": "true" }, GLYPHS[Math.floor(c / 10) % 4]);
      const toggle = button([glyph, " ", name], () => {
        if (!hidden.delete(c)) hidden.add(c);
        toggle.setAttribute("aria-pressed", !hidden.has(c));
        plotly.restyle(plot, { visible: !hidden.has(c) }, [c]);
      }, { "aria-pressed": !hidden.has(c), title: "Show or hide this class" });
      return toggle;
    }));
  }

  function listen() {
    const rowOf = (event) => traces[event.points[0].curveNumber]?.[event.points[0].pointNumber];
    plot.on("plotly_selected", async (event) => {
      // The library also fires when an outline is cleared; only a drawn shape is a selection.
      const { lassoPoints: lasso, range } = event ?? {};
      if (!lasso && !range) return;
      const polygon = lasso ? lasso.x.map((x, i) => [x, lasso.y[i]])
        : [[0, 0], [1, 0], [1, 1], [0, 1]].map(([i, j]) => [range.x[i], range.y[j]]);
      const answer = await model.ctx.api("lasso", { map: kind, polygon });
      plotly.relayout(plot, { selections: [] });
      const rows = answer?.rows.filter(seen) ?? []; // the server doesn't know which classes are hidden here
      if (rows.length) model.selection.set({ rows, origin: "map", at: rows[0] });
      else restyle();
    });
    plot.on("plotly_click", (event) => {
      const row = rowOf(event);
      if (row !== undefined) model.selection.set({ at: row });
    });
    let over = null;
    plot.on("plotly_hover", async (event) => {
      over = rowOf(event);
      const card = over === undefined ? null : (await model.cards([over]))?.get(over);
      if (!card || card.row !== over) return;
      peek.replaceChildren(picture(card.thumb, ""), el("span", {}, `${card.given} → ${card.predicted}`));
      peek.hidden = false;
    });
    plot.on("plotly_relayouting", () => { rings.style.visibility = "hidden"; });
    plot.on("plotly_afterplot", overlay);
    plot.on("plotly_unhover", () => { over = null; peek.hidden = true; });
  }

  const marked = () => drawn && overlay();
  model.selection.subscribe((now, before) => {
    marked();
    if (now.rows !== before.rows) setTimeout(restyle); // the grid first
  });
  return { node, draw, marked };
});
