// Augment: which cells of the h grid take the content, painted on an example image.
"use strict";

DebiasStudio.widget("mask", (ctx) => {
  const { el, button, address, count } = DebiasStudio;
  // `whole` is the mask of all classes; `own` those of classes that have another, by number.
  let side = 0, whole = [], own = new Map(), chosen = "", cells = [], names = [], paint = null, at = 0, example = "";
  const image = el("img", { alt: "Example image", draggable: "false" });
  const grid = el("div", { class: "ds-paint", role: "group", "aria-label": "Mask: which parts take the content" });
  const told = el("p", { role: "status" });
  const which = el("select", { "aria-label": "Contents that the mask is for", onchange: () => {
    chosen = which.value;
    cells = own.get(chosen) ?? whole;
    show();
  } });
  const same = button("As all classes", () => {
    own.delete(chosen);
    cells = whole;
    show();
    tell();
  });
  const buttons = [["All", () => 1], ["None", () => 0], ["Invert", (cell) => 1 - cell]].map(([text, to]) => button(text, () => {
    cells = cells.map(to);
    keep();
    show();
    tell();
  }));
  ctx.body.append(el("div", { class: "ds-row" }, el("label", {}, "Contents of ", which), same), el("div", { class: "ds-canvas" }, image, grid), el("div", { class: "ds-row" }, buttons), told,
    el("p", { class: "ds-small" }, "Drag over the picture, or use the arrow keys and Space. "
      + "Clear cells take the content; striped cells keep the original."));

  function show() {
    [...grid.children].forEach((cell, i) => {
      cell.setAttribute("aria-pressed", cells[i] === 1);
      cell.tabIndex = i === at ? 0 : -1;
    });
    const on = cells.reduce((sum, cell) => sum + cell, 0);
    const others = [...own.keys()].filter((c) => c !== chosen).map((c) => names[c]);
    same.disabled = !own.has(chosen);
    told.textContent = (on === cells.length ? "The whole picture takes the content (no mask)."
      : `${count(on)} of ${count(cells.length, "cell")} take the content.`)
      + (others.length ? ` Masks of their own: ${others.join(", ")}.` : "");
  }
  // One mask for all classes, or one for each.
  const tell = () => ctx.trigger("mask", { masks: own.size ? names.map((_, c) => own.get(String(c)) ?? whole) : [whole] });
  function keep() {
    if (chosen === "") whole = cells;
    else own.set(chosen, cells);
  }
  function set(i, value) {
    if (cells[i] === value) return;
    cells = cells.with(i, value);
    keep();
    show();
  }

  const cellAt = (event) => [...grid.children].indexOf(document.elementFromPoint(event.clientX, event.clientY));
  grid.addEventListener("pointerdown", (event) => {
    const i = cellAt(event);
    if (i < 0) return;
    paint = 1 - cells[i]; // the first cell says whether this stroke paints or erases
    at = i;
    set(i, paint);
    grid.setPointerCapture(event.pointerId);
  });
  grid.addEventListener("pointermove", (event) => {
    const i = paint === null ? -1 : cellAt(event);
    if (i >= 0) set(i, paint);
  });
  grid.addEventListener("lostpointercapture", () => {
    if (paint !== null) tell();
    paint = null;
  });
  grid.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: at % side ? -1 : 0, ArrowRight: (at + 1) % side ? 1 : 0, ArrowUp: -side, ArrowDown: side };
    if (event.key === " " || event.key === "Enter") {
      set(at, 1 - cells[at]);
      tell();
    } else if (event.key in steps) {
      const to = at + steps[event.key];
      if (to >= 0 && to < cells.length) at = to;
      show();
      grid.children[at].focus();
    } else return;
    event.preventDefault();
  });

  async function update(value) {
    const answer = await ctx.api("mask");
    if (!answer) return;
    if (answer.image !== example) image.src = address((example = answer.image));
    if (answer.classes.join("\n") !== names.join("\n")) {
      names = answer.classes;
      which.replaceChildren(el("option", { value: "" }, "all classes"), ...names.map((name, c) => el("option", { value: c }, name)));
      side = 0;
    }
    if (answer.cells !== side) {
      side = answer.cells;
      at = 0;
      which.value = chosen = "";
      own = new Map();
      whole = cells = Array(side * side).fill(1);
      grid.style.gridTemplate = `repeat(${side}, 1fr) / repeat(${side}, 1fr)`;
      grid.replaceChildren(...cells.map((_, i) =>
        el("button", { type: "button", "aria-label": `Row ${Math.floor(i / side) + 1}, column ${(i % side) + 1}` })));
    }
    show();
  }
  return { update };
});
