// The job drawer: steps, device, what runs, what waits, what went wrong, what is done.
"use strict";

DebiasStudio.widget("drawer", (ctx) => {
  const { el, button, dialog, duration } = DebiasStudio;
  const STEP = { done: "✓", current: "→", locked: "○" };
  const ENDS = { done: "finished", kept: "stopped, results kept", stopped: "stopped", failed: "failed", interrupted: "interrupted" };
  const SIGN = { running: "▶", queued: "…", done: "✓", kept: "✓", stopped: "■", failed: "✕", interrupted: "!" };
  const ASK_AGAIN = 8000;
  let filled = null, asked = "", when = 0; // stamps: what the page shows, what was asked for and when
  const states = new Map(), nodes = new Map(); // by job

  const steps = el("ol", { class: "ds-steps", "aria-label": "Steps" }), device = el("span", { class: "ds-small" });
  const open = el("ul", { class: "ds-jobs", "aria-label": "Jobs" });
  const latest = el("summary"), history = el("ul"), past = el("details", { class: "ds-past", hidden: true }, latest, history);
  const news = el("div", { class: "ds-hidden", role: "status" });
  ctx.body.append(el("div", { class: "ds-row" }, steps, device), open, past, news);

  async function act(job, action) {
    if (action === "now" && job.state === "running") {
      const lost = el("p", {}, `${job.keeps} What was not saved since then is lost.`);
      const sure = await dialog(`Stop “${job.title}” now?`, lost, [["", "Let it run"], ["yes", job.words.now]]);
      if (sure !== "yes") return;
    }
    await ctx.api(`jobs/${job.id}/${action}`, {}, { retry: false });
    look();
  }

  /** A job's node; it is kept while the job lives, so that focus and the opened log stay. */
  function jobNode(id) {
    const title = el("strong"), status = el("span"), bar = el("progress"), line = el("p"), error = el("p", { class: "ds-error" });
    const log = el("pre", { tabindex: "0", "aria-label": "Last lines of the log" }), more = el("details", {}, el("summary", {}, "Last lines"), log);
    const buttons = el("div", { class: "ds-row" }), head = el("div", { class: "ds-row" }, title, status, buttons);
    const node = el("li", { class: "ds-job" }, head, bar, line, error, more);
    let offered = "";
    function update(job) {
      const running = job.state === "running";
      node.dataset.state = job.state;
      title.textContent = `${SIGN[job.state]} ${job.title}`;
      status.textContent = job.state === "queued" ? `waits, place ${job.place} in the queue` : ENDS[job.state] ?? job.stage;
      bar.hidden = !running;
      bar.setAttribute("aria-label", `Progress of ${job.title}`);
      if (job.total) Object.assign(bar, { max: job.total, value: job.done });
      else bar.removeAttribute("value");
      const facts = [job.total && `${job.done} of ${job.total}`, job.eta !== null && `about ${duration(job.eta)} left`,
        job.note, job.silent !== null && `no sign of life for ${duration(job.silent)}`];
      line.textContent = running ? facts.filter(Boolean).join(" · ") : "";
      line.hidden = !line.textContent;
      error.textContent = job.error;
      error.hidden = !job.error;
      more.hidden = !job.log.length;
      if (log.textContent !== job.log.join("\n")) log.textContent = job.log.join("\n");
      const offer = JSON.stringify([job.actions, job.words]);
      if (offer !== offered) buttons.replaceChildren(...job.actions.map((action) => button(job.words[action] ?? action, () => act(job, action))));
      offered = offer;
    }
    nodes.set(id, { node, update });
    return nodes.get(id);
  }

  function show(state) {
    steps.replaceChildren(...state.steps.map(({ name, state: is, reason }) =>
      el("li", { "data-state": is, "aria-current": is === "current" ? "step" : "false" },
        el("span", { "aria-hidden": "true" }, STEP[is], " "), name,
        is === "done" && el("span", { class: "ds-hidden" }, " (done)"),
        is === "locked" && reason && el("span", { class: "ds-small" }, ` (${reason})`))));
    device.textContent = `device: ${state.device}`;
    // What can be resumed stays until a person has decided; the others become history, as does what was
    // taken out of the queue before it began.
    const waits = ({ state: is, stage, actions }) => actions.includes("resume") && (is !== "stopped" || stage !== "");
    const isOpen = (job) => job.state === "running" || job.state === "queued" || waits(job);
    const rank = (job) => (job.state === "running" ? 0 : job.state === "queued" ? job.place : 0.5);
    const wanted = state.jobs.filter(isOpen).sort((a, b) => rank(a) - rank(b)).map((job) => {
      const { node, update } = nodes.get(job.id) ?? jobNode(job.id);
      update(job);
      return node;
    });
    // Moving a node takes its focus away: only where the list has really changed.
    if (wanted.length !== open.children.length || wanted.some((node, i) => node !== open.children[i])) open.replaceChildren(...wanted);
    const ended = state.jobs.filter((job) => !isOpen(job)), lines = ended.map((job) => `${SIGN[job.state]} ${job.title}: ${ENDS[job.state]}`);
    past.hidden = !ended.length;
    if (lines.join() !== [...history.children].map((li) => li.textContent).join()) {
      latest.textContent = ended.length ? lines[0] + (ended.length > 1 ? ` · and ${ended.length - 1} earlier` : "") : "";
      history.replaceChildren(...lines.map((text) => el("li", {}, text)));
    }
    const told = state.jobs.filter((job) => states.size && states.get(job.id) !== job.state).map((job) =>
      `${job.title}: ${ENDS[job.state] ?? job.state}${job.error ? `. ${job.error}` : ""}`);
    if (told.length) news.textContent = told.join(". ");
    state.jobs.forEach((job) => states.set(job.id, job.state));
  }

  const look = ctx.poll(async () => {
    const state = await ctx.api("state");
    if (!state) return;
    show(state);
    window.dispatchEvent(new CustomEvent("debias-state", { detail: { project: ctx.project, state } }));
    // Python answers with the stamp that it has filled the page for. An event can be lost while Gradio
    // closes the stream of those before it, so it is asked again until that is the present one.
    const again = state.stamp !== asked || Date.now() - when > ASK_AGAIN;
    if (filled !== null && state.stamp !== filled && again) {
      [asked, when] = [state.stamp, Date.now()];
      ctx.trigger("changed", { project: ctx.project, stamp: state.stamp });
    }
  }, () => (document.hidden ? 10000 : 1500));
  ctx.on(document, "visibilitychange", () => { if (!document.hidden) look(); });
  return {
    update(value) {
      filled = value.stamp ?? null;
      look();
    },
  };
});
