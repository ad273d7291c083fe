// Classroom: guess first, then see the answer.
"use strict";

DebiasStudio.widget("guess", (ctx) => {
  const { el, button } = DebiasStudio;
  const question = el("p", { class: "ds-title" }), choices = el("div", { class: "ds-row", role: "group" }), answer = el("div", { role: "status" });
  ctx.body.append(question, choices, answer);

  function show({ question: asked, choices: options, answered, answer: told }) {
    question.textContent = asked;
    choices.setAttribute("aria-label", asked);
    const given = answered !== null && answered !== undefined;
    choices.replaceChildren(...options.map(({ id, text }) => button(text, () => {
      if (given) return;
      ctx.trigger("guess", { id });
      show({ question: asked, choices: options, answered: id, answer: told });
      choices.querySelector("[aria-pressed=true]")?.focus();
    }, { "aria-pressed": id === answered, "aria-disabled": given, disabled: given && id !== answered })));
    const guessed = options.find(({ id }) => id === answered)?.text ?? "";
    answer.replaceChildren(...(given
      ? [el("p", {}, el("strong", {}, `Your guess: ${guessed}`)), el("p", {}, told?.text ?? "")]
      : [el("p", { class: "ds-small" }, "Choose one; then the answer is shown.")]));
  }
  return { update: (value) => { if (value.question) show(value); } };
});
