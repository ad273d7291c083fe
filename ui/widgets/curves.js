// Train: accuracy and loss by epoch, growing while the job runs.
"use strict";

DebiasStudio.widget("curves", (ctx) => {
  const { el, button } = DebiasStudio;
  const COLOURS = ["#7F8C9B", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SIDES = [["accuracy", "Accuracy"], ["loss", "Loss"]];
  const hidden = new Set();
  let running = false, last = null, named = "";

  const empty = el("p", { class: "ds-empty" }, "No training yet: its curves are drawn here while it runs.");
  const plots = SIDES.map(([name, text]) => el("div", { class: "ds-plot", role: "img", "aria-label": `${text} by epoch` }, ""));
  const legend = el("div", { class: "ds-legend", role: "group", "aria-label": "Curves" }), state = el("p", { class: "ds-small", role: "status" });
  const main = el("div", { hidden: true }, el("div", { class: "ds-pair" }, plots), legend, state);
  ctx.body.append(empty, main);

  // By arm and seed: the seeds of one arm share a colour and differ by their dash.
  function styles(series) {
    const arms = [...new Set(series.map(({ name }) => name.split(",")[0]))];
    return series.map(({ name }, i) => {
      const arm = arms.indexOf(name.split(",")[0]);
      const before = series.slice(0, i).filter((other) => other.name.split(",")[0] === arms[arm]).length;
      return { color: COLOURS[arm % COLOURS.length], dash: DASHES[before % DASHES.length], width: 2.5 };
    });
  }
  function draw() {
    const lines = styles(last.series), faint = getComputedStyle(ctx.root).getPropertyValue("--ds-line");
    SIDES.forEach(([key, title], p) => ctx.draw(plots[p], last.series.flatMap((one, i) => hidden.has(one.name) ? [] : [{
      type: "scatter", mode: one[key].length < 2 ? "markers" : "lines", x: one[key].map((_, e) => e + 1), y: one[key], line: lines[i],
      marker: { color: lines[i].color }, hovertemplate: "epoch %{x}: %{y:.3f}<extra></extra>",
    }]), {
      title: { text: title, font: { size: 14 }, x: 0.02, xanchor: "left" }, margin: { l: 48, r: 12, t: 34, b: 40 },
      xaxis: { title: { text: "epoch" }, gridcolor: faint, range: [0.5, Math.max(2, ...last.series.map((one) => one.epochs ?? one.loss.length)) + 0.5] },
      yaxis: { gridcolor: faint, zeroline: false, ...(key === "accuracy" ? { tickformat: ".3~p" } : { rangemode: "tozero" }) },
    }));
    const names = last.series.map((one) => one.name).join("\n");
    if (names !== named) legend.replaceChildren(...last.series.map((one, i) => entry(one.name, lines[i])));
    named = names;
  }
  function entry(name, { color, dash }) {
    const border = { solid: "solid", dash: "dashed", dot: "dotted", dashdot: "double" }[dash];
    const toggle = button([el("span", { class: "ds-dash", style: `border-top: 3px ${border} ${color}`, "aria-hidden": "true" }), ` ${name}`], () => {
      if (!hidden.delete(name)) hidden.add(name);
      toggle.setAttribute("aria-pressed", !hidden.has(name));
      draw();
    }, { "aria-pressed": !hidden.has(name), title: "Show or hide this curve" });
    return toggle;
  }
  const load = ctx.poll(async () => {
    const answer = ctx.visible() ? await ctx.api("curves") : null;
    if (!answer) return;
    const fresh = JSON.stringify(answer) !== JSON.stringify(last);
    running = answer.running;
    last = answer;
    empty.hidden = answer.series.length > 0;
    main.hidden = !answer.series.length;
    state.textContent = running ? "Training…" : "";
    if (fresh && answer.series.length) draw();
  }, () => (running ? 1500 : 10000));
  // The drawer sees a training start before Python does.
  ctx.on(window, "debias-state", ({ detail }) => {
    const trains = detail.state.jobs.some((job) => job.kind === "debias" && job.state === "running");
    if (trains && !running && detail.project === ctx.project) load();
  });
  return { update: load };
});
