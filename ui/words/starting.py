"""The light page that answers while the app is being loaded, and its sentences."""

from __future__ import annotations

from html import escape

from ui.words.common import TAGLINE, TITLE

LOADING = "Loading the libraries of the page"
DEMO = "Preparing the built-in demo (once)"
CLASSROOM = "Preparing the classroom (once)"
LAYING_OUT = "Laying the page out"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 18vh auto; max-width: 34rem; padding: 0 1.5rem; }}
h1 {{ font-size: 1.6rem; margin: 0 0 .25rem; }}
p {{ margin: .25rem 0; }}
progress {{ width: 100%; margin-top: 1.5rem; accent-color: #1d4ed8; }}
</style></head><body><main>
<h1>{title}</h1><p>{tagline}</p>
<progress aria-label="Starting"></progress>
<p role="status"><span id="doing">{doing}</span> … <span id="seconds"></span></p>
<noscript><p>Reload this page in a moment.</p></noscript>
</main><script>
(async () => {{
  const path = location.pathname.replace(/[^/]*$/, "");
  for (;;) {{
    try {{
      const now = await (await fetch(path + "ready", {{ cache: "no-store" }})).json();
      if (now.ready) return location.reload();
      document.getElementById("doing").textContent = now.doing;
      document.getElementById("seconds").textContent = Math.round(now.seconds) + " s";
    }} catch {{ /* it is asked again */ }}
    await new Promise((done) => setTimeout(done, 300));
  }}
}})();
</script></body></html>
"""


def page(doing: str) -> str:
    """The light page's HTML: it asks until the app is there, and then reloads."""
    return _PAGE.format(title=escape(TITLE), tagline=escape(TAGLINE), doing=escape(doing))
