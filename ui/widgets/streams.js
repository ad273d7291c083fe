// Gradio's answers come in one stream, which the server closes behind the last of them. Where an event is taken up
// while that close is still on its way, Gradio's client believes the stream to be open, then sees it close, and
// waits for ever (gradio 6.31). Here the close is told only when no event waits, and what is taken up meanwhile
// is told after it. This must run before Gradio's own scripts.
"use strict";

(() => {
  const plain = window.fetch.bind(window);
  const waiting = new Set(); // events that were taken up and have no result yet
  const LONGEST = 2000; // milliseconds that an answer is held back for a close
  let closing = Promise.resolve();

  window.fetch = async (input, init) => {
    const path = new URL(input.url ?? input, location.href).pathname;
    if (path.endsWith("/queue/join")) return joined(await plain(input, init));
    if (path.endsWith("/queue/data")) return streamed(new Request(input, init));
    return plain(input, init);
  };

  async function joined(answer) {
    if (answer.ok) waiting.add((await answer.clone().json()).event_id);
    await closing;
    return answer;
  }

  async function streamed(request) {
    const first = await plain(request.clone());
    if (!first.ok || !first.body) return first;
    const body = new ReadableStream({
      start: (into) => forward(first, request, into).then(() => into.close(), (error) => into.error(error)),
    });
    return new Response(body, { status: first.status, headers: first.headers });
  }

  /** Every message of the stream but a close for which it is too early: then the next stream is begun. */
  async function forward(answer, request, into) {
    const encoder = new TextEncoder();
    while (answer) {
      let next = null;
      for await (const message of messages(answer.body)) {
        const { msg, event_id } = JSON.parse(message.replace(/^data:\s*/, ""));
        if (msg === "process_completed") waiting.delete(event_id);
        if (msg === "close_stream") {
          if (waiting.size) {
            next = await plain(request.clone());
            if (!next.ok) throw next;
            break;
          }
          closing = told(request.signal);
        }
        into.enqueue(encoder.encode(`${message}\n\n`));
      }
      answer = next;
    }
  }

  /** Until Gradio's client has seen the close, upon which it gives the request up. */
  const told = (signal) => new Promise((done) => {
    if (signal.aborted) return done();
    signal.addEventListener("abort", done, { once: true });
    setTimeout(done, LONGEST);
  });

  async function* messages(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (held + value).split("\n\n");
      held = parts.pop();
      yield* parts;
    }
  }
})();
