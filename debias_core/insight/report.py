"""One self-contained HTML file: what was found, made and changed. Text is escaped by the template."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from debias_core.data import images
from debias_core.data.images import Pixels
from debias_core.data.table import ImageTable, evenly
from debias_core.insight import figures
from debias_core.methods.catalog import METHODS
from debias_core.records import ArmResult, AuditResult, Projection, SyntheticSet, mean_and_sd

if TYPE_CHECKING:  # the page uses the small functions below without loading torch
    import torch

    from debias_core.classifier.networks import Classifier

TRIPTYCHS = 12
TOP_SHOWN = 24


def build_report(
    *,
    name: str,
    table: ImageTable,
    audit: AuditResult,
    audit_config: dict[str, Any],
    synthetic: SyntheticSet,
    inject_config: dict[str, Any],
    arms: Sequence[ArmResult],
    debias_config: dict[str, Any],
    maps: dict[str, Projection],
    nets: dict[str, Classifier],
    split_rule: str,
    curated: dict[str, int],
    energy: dict[str, Any],
    captions: dict[str, Any] | None,
    amplified: dict[str, Any] | None,
    predicts: dict[str, Any],
    recomposed: str | None,
    brought: dict[str, Any] | None,
    device: torch.device,
) -> str:
    """The report as one HTML text; plotly's script is inlined, so that it opens without network.

    `predicts` is what tells the class before any training; `captions` and `amplified` are what DiffuBias and DDB made in the project, where they were used,
    `recomposed` the address of Recompose's sheet of pairs, `brought` what predictions took f_B's place.
    """
    from debias_core.insight import gradcam

    train = table.where("train")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    explanations, heat_note = gradcam.explain(table, audit, nets, device=device)
    return environment.get_template("report.html.jinja").render(
        name=name,
        plotly=Markup(f"<script>{get_plotlyjs()}</script>"),  # plotly's own text, not a person's
        headline=headline(arms),
        split_rule=split_rule,
        rows=accuracy_rows(arms),
        seeds=sorted({a.seed for a in arms}),
        arms=arms,
        counts={s: int((table.split == s).sum()) for s in ("train", "valid", "test")},
        audit=audit,
        top=_top_cards(train, audit),
        triptychs=_triptychs(train, synthetic),
        synthetic=synthetic,
        made_by=made_by(synthetic),
        curated=curated,
        energy=energy,
        captions=_with_pictures(captions, train),
        amplified=amplified,
        predicts=predicts,
        recomposed=recomposed,
        brought=brought,
        nets=nets,
        explanations=explanations,
        data_url=data_url,
        heat_note=heat_note,
        figures={
            "before_after": _html(figures.before_after(arms)),
            "by_group": _html(figures.by_group(arms)),
            "histogram": _html(figures.loss_histogram(audit)),
            "maps": [
                _html(figures.feature_map(p, table.class_names, method=m, title=f"{n}, {label}"))
                for m, label in (("pca", "PCA"), ("tsne", "t-SNE"))
                for n, p in maps.items()
                if m == "pca" or p.tsne is not None
            ],
        },
        configs={
            "audit": json.dumps(audit_config, indent=1),
            "generate": json.dumps(inject_config, indent=1),
            "debias": json.dumps(debias_config, indent=1),
        },
    )


def made_by(synthetic: SyntheticSet) -> str:
    """How many images which method made, in words."""
    counts = Counter(
        METHODS[r.method].title if r.method in METHODS else r.method for r in synthetic.origins
    )
    return ", ".join(f"{n:,} by {name}" for name, n in counts.most_common())


def headline(arms: Sequence[ArmResult]) -> str:
    """What changed, in one sentence."""
    mean = {
        arm: {
            key: np.mean([getattr(a.accuracy, key) for a in arms if a.arm == arm])
            for key in ("average", "aligned", "conflicting")
            if all(getattr(a.accuracy, key) is not None for a in arms)
        }
        for arm in ("vanilla", "debiased")
    }
    before, after = mean["vanilla"], mean["debiased"]
    if "conflicting" in before:
        return (
            f"The ordinary classifier is {before['aligned']:.0%} right on images that follow the "
            f"pattern and {before['conflicting']:.0%} on those that break it; after retraining it is "
            f"{after['aligned']:.0%} and {after['conflicting']:.0%}."
        )
    return (
        f"Accuracy on the test part: {before['average']:.1%} before, {after['average']:.1%} after. "
        "Without a known bias attribute, aligned and conflicting images can't be told apart."
    )


def accuracy_rows(arms: Sequence[ArmResult]) -> list[tuple[str, str, str]]:
    """(metric, vanilla, debiased), as mean ± sample s.d. over seeds; "unknown" without an attribute."""
    metrics = (
        ("all test images", "average"),
        ("bias-aligned", "aligned"),
        ("bias-conflicting", "conflicting"),
        ("worst group", "worst"),
    )

    def cell(arm: str, key: str) -> str:
        return mean_and_sd([getattr(a.accuracy, key) for a in arms if a.arm == arm])

    return [(label, cell("vanilla", key), cell("debiased", key)) for label, key in metrics]


def _html(figure: go.Figure) -> Markup:
    # plotly escapes <, > and / inside its JSON; names are escaped in `figures` besides.
    options = {"responsive": True, "displaylogo": False}
    text = figure.to_html(
        full_html=False, include_plotlyjs=False, default_width="100%", config=options
    )
    return Markup(text)


def data_url(pixels: Pixels, side: int = 96) -> str:
    """uint8 [H, W, 3] as a PNG data URL, enlarged to about `side` pixels."""
    return png_url(images.png(images.enlarge(pixels, side)))


def png_url(png: bytes) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


CAPTIONED = 30  # images whose captions the report shows


def _with_pictures(captions: dict[str, Any] | None, train: ImageTable) -> dict[str, Any] | None:
    if captions is None:
        return None
    shown = captions["images"][:CAPTIONED]
    rows = train.positions([card["id"] for card in shown])
    cards = [{**c, "src": data_url(train.pixels[r])} for c, r in zip(shown, rows, strict=True)]
    return {**captions, "shown": cards, "more": len(captions["images"]) - len(shown)}


def _top_cards(train: ImageTable, audit: AuditResult) -> list[dict[str, Any]]:
    at = train.positions(audit.top_k.ids[:TOP_SHOWN])
    pred = dict(zip(audit.scores.ids.tolist(), audit.scores.pred.tolist(), strict=True))
    return [
        {
            "src": data_url(train.pixels[i]),
            "id": str(train.ids[i]),
            "loss": float(loss),
            "given": train.class_names[int(train.y[i])],
            "predicted": train.class_names[pred[str(train.ids[i])]],
        }
        for i, loss in zip(at, audit.top_k.loss, strict=False)
    ]


def _triptychs(train: ImageTable, synthetic: SyntheticSet) -> list[dict[str, Any]]:
    rows = []
    for i in evenly(len(synthetic.origins), TRIPTYCHS):
        r = synthetic.origins[i]
        (c,), (o,) = train.sources([r])
        sources = [train.pixels[s] for s in (o, c) if s >= 0]
        pictures = (*sources, synthetic.pixels[i])
        rows.append(
            {
                "src": [data_url(p, 64) for p in pictures],
                "label": train.class_names[r.label],
                "prompt": r.prompt,
            }
        )
    return rows
