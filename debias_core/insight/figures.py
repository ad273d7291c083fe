"""plotly figures that the report and the page share: maps, accuracy by group, curves, losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from debias_core.records import KINDS, ArmResult, AuditResult, Projection

# Okabe and Ito's colours, which colour-blind people can tell apart, then more.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F", "#7F7F7F",
    "#5E3C99", "#1B7837",
)  # fmt: skip
VANILLA, DEBIASED = "#7F8C9B", "#0072B2"
MARKERS = {KINDS[0]: ("circle", 5, 0.55), KINDS[1]: ("star", 15, 1.0), KINDS[2]: ("x", 7, 0.8)}


def _plain(figure: go.Figure, title: str, height: int) -> go.Figure:
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        template="plotly_white",
        height=height,
        margin={"l": 50, "r": 10, "t": 45, "b": 45},
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    return figure


def _text(name: str) -> str:
    """A class name as literal text: plotly reads a small HTML in its labels."""
    return str(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def edit_time_curves(results: Sequence[dict[str, Any]]) -> go.Figure:
    """The curves by which t_edit was measured (`stages.run_edit_time`), a panel a rule, and each choice.

    The rules' panels stand below one another: LPIPS grows with t where label fidelity falls with it, and
    they have no unit in common.
    """
    rules = {"fidelity": ("label fidelity", "t_edit"), "lpips": ("LPIPS of image and P_t", "t")}
    titles = [
        f"t_edit {r['t_edit']}, by {'LPIPS' if r['by'] == 'lpips' else 'fidelity'}" for r in results
    ]
    figure = make_subplots(rows=len(results), cols=1, subplot_titles=titles, vertical_spacing=0.25)
    for row, result in enumerate(results, start=1):
        named, along = rules[result["by"]]
        lines = [(named, result["values"], DEBIASED)]
        if "look" in result:
            lines.append(("look fidelity", result["look"], VANILLA))
        for name, values, colour in lines:
            figure.add_trace(
                go.Scatter(
                    x=result["timesteps"], y=values, name=name, mode="lines+markers",
                    line={"color": colour},
                ),
                row=row, col=1,
            )  # fmt: skip
        mark = {"dash": "dot", "color": "#D55E00"}
        figure.add_vline(x=result["t_edit"], line=mark, row=row, col=1)
        figure.update_xaxes(title=along, row=row, col=1)
        figure.update_yaxes(title=named, rangemode="tozero", row=row, col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.3 / len(results)})
    return _plain(figure, "", 320 * len(results))


def feature_map(
    projection: Projection, class_names: Sequence[str], *, method: str, title: str
) -> go.Figure:
    """Points coloured by label; originals are dots, the top-K stars, synthetic images crosses."""
    xy = projection.pca if method == "pca" else projection.tsne
    assert xy is not None
    figure = go.Figure()
    for kind in KINDS:
        symbol, size, opacity = MARKERS[kind]
        for c, name in enumerate(class_names):
            rows = (projection.kind == kind) & (projection.label == c)
            if not rows.any():
                continue
            figure.add_trace(
                go.Scatter(
                    x=np.round(xy[rows, 0], 3),
                    y=np.round(xy[rows, 1], 3),
                    mode="markers",
                    name=_text(name),
                    legendgroup=str(c),
                    showlegend=kind == KINDS[0],
                    text=[_text(i) for i in projection.ids[rows]],
                    hovertemplate=f"%{{text}}<br>{_text(name)}, {kind}<extra></extra>",
                    marker={
                        "symbol": symbol,
                        "size": size,
                        "opacity": opacity,
                        "color": COLOURS[c % len(COLOURS)],
                        "line": {"width": 1 if kind == KINDS[1] else 0, "color": "#000"},
                    },
                )
            )
    for kind in KINDS:
        if (projection.kind == kind).any():
            symbol, size, _ = MARKERS[kind]
            marker: dict[str, Any] = {"symbol": symbol, "size": size, "color": "#444"}
            figure.add_trace(
                go.Scatter(x=[None], y=[None], mode="markers", name=kind, marker=marker)
            )
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False)
    figure = _plain(figure, title, 460)
    return figure.update_layout(
        margin={"l": 10, "r": 10, "t": 45, "b": 10}, legend={"itemsizing": "constant"}
    )


def loss_histogram(audit: AuditResult) -> go.Figure:
    """How the bias classifier's loss is spread, and where the top-K begins."""
    figure = go.Figure(
        go.Histogram(x=audit.scores.loss, nbinsx=60, marker_color=DEBIASED, name="images")
    )
    cut = float(audit.top_k.loss.min())
    figure.add_vline(
        x=cut, line_dash="dash", line_color="#D55E00",
        annotation_text=f"top {len(audit.top_k.ids)} begin at {cut:.2f}",
        annotation_position="top left",
    )  # fmt: skip
    figure.update_yaxes(type="log", title="images (log scale)")
    figure.update_xaxes(title="loss of the bias classifier (cross-entropy)")
    return _plain(figure, "Most images are easy for the shortcut; the tail is not", 300)


def curves(history: dict[str, list[float]], *, what: str, epochs: int | None = None) -> go.Figure:
    """One line per arm over epochs."""
    figure = go.Figure()
    for name, values in history.items():
        colour = VANILLA if name.startswith("vanilla") else DEBIASED
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(values) + 1)), y=values, name=name, mode="lines",
                line={"color": colour, "width": 2},
            )
        )  # fmt: skip
    figure.update_xaxes(title="epoch", range=None if epochs is None else [0.5, epochs + 0.5])
    figure.update_yaxes(title=what, rangemode="tozero")
    return _plain(figure, what, 300)


def before_after(arms: Sequence[ArmResult]) -> go.Figure:
    """Bars of accuracy over all, aligned, conflicting and worst group; whiskers are seeds' s.d."""
    figure, seeds = go.Figure(), len({a.seed for a in arms})
    for arm, colour in (("vanilla", VANILLA), ("debiased", DEBIASED)):
        mine = [a.accuracy for a in arms if a.arm == arm]
        if not mine:
            continue
        rows = {
            "all": [a.average for a in mine],
            "aligned": [a.aligned for a in mine if a.aligned is not None],
            "conflicting": [a.conflicting for a in mine if a.conflicting is not None],
            "worst group": [a.worst for a in mine],
        }
        shown = {k: v for k, v in rows.items() if v}
        mean = [float(np.mean(v)) for v in shown.values()]
        figure.add_trace(
            go.Bar(
                x=list(shown), y=mean, name=arm, marker_color=colour,
                text=[f"{m:.0%}" for m in mean], textposition="outside",
                error_y={"type": "data", "array": [_sd(v) for v in shown.values()],
                         "visible": seeds > 1},
            )
        )  # fmt: skip
    figure.update_yaxes(range=[0, 1.12], tickformat=".0%", title="test accuracy")
    whiskers = f" (whiskers: s.d. over {seeds} seeds)" if seeds > 1 else ""
    return _plain(figure, f"Before and after{whiskers}", 340)


def sweep_map(result: dict[str, Any]) -> go.Figure:
    """A sweep's heat map (`workspace/sweep.run_sweep`): the debiased arm's accuracy in every cell."""
    rows, columns = result["config"]["rows"], result["config"]["columns"]
    across = columns["values"] if columns else [""]
    known = {tuple(cell["at"].values()): cell for cell in result["cells"]}
    grid = [[known[(r, c) if columns else (r,)] for c in across] for r in rows["values"]]
    seeds = result["config"]["seeds"]
    mean = [[cell["score"]["mean"] for cell in line] for line in grid]
    figure = go.Figure(
        go.Heatmap(
            x=[str(v) for v in across],
            y=[str(v) for v in rows["values"]],
            z=mean,
            text=[
                [
                    f"{c['score']['mean']:.1%}" + (f"<br>± {c['score']['sd']:.1%}" if seeds > 1 else "")
                    for c in line
                ]
                for line in grid
            ],
            customdata=[
                [[c["label_fidelity"]["mean"], c["look_fidelity"]["mean"],
                  c["seconds_per_image"]["mean"], c["gain_points"], _per_point(c)] for c in line]
                for line in grid
            ],
            texttemplate="%{text}",
            hovertemplate="accuracy %{z:.1%}, %{customdata[3]:+.1f} points over vanilla<br>"
            "label fidelity %{customdata[0]:.2f}, look fidelity %{customdata[1]:.2f}<br>"
            "%{customdata[2]:.3f} s an image%{customdata[4]}<extra></extra>",
            colorscale="Blues",
            showscale=False,  # each cell says its figure
        )
    )  # fmt: skip
    # Values are settings, not quantities on a scale: each has a place of its own.
    figure.update_xaxes(type="category", title=columns["name"] if columns else "")
    figure.update_yaxes(type="category", title=rows["name"], autorange="reversed")
    vanilla = float(np.mean([c["vanilla"]["mean"] for line in grid for c in line]))
    title = f"Debiased accuracy on held-out training images (vanilla {vanilla:.0%})"
    return _plain(figure, title, 170 + 60 * len(grid))


def _per_point(cell: dict[str, Any]) -> str:
    """What a point of accuracy costs in a cell of a sweep; nothing where there is no gain to divide by."""
    spent = cell.get("seconds_per_point")
    return "" if spent is None else f", {spent:.1f} s of generation a point"


def _sd(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def by_group(arms: Sequence[ArmResult]) -> go.Figure:
    """Mean accuracy over seeds in every group, both arms."""
    figure = go.Figure()
    for arm, colour in (("vanilla", VANILLA), ("debiased", DEBIASED)):
        mine = [a.accuracy for a in arms if a.arm == arm]
        if mine:
            mean = np.mean([a.accuracy for a in mine], axis=0)
            names = [
                f"{_text(g)} ({n})" for g, n in zip(mine[0].groups, mine[0].count, strict=True)
            ]
            figure.add_trace(
                go.Bar(y=names, x=mean, name=arm, marker_color=colour, orientation="h")
            )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(autorange="reversed", automargin=True)
    rows = max((len(t.y) for t in figure.data), default=1)
    return _plain(figure, "Accuracy by group (test images in brackets)", 120 + 26 * rows)
