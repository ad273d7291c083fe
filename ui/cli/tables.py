"""What the commands print: tables of accuracy, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from debias_core.records import mean_and_sd, ratio_in_words
from ui.cli import common
from ui.words import augment as augment_words


def cells_table(rows: list[dict[str, Any]], scored_on: str) -> None:
    """The field's table, and below it why a cell has no figures."""
    from debias_core.study.table_text import footnotes, heads, in_words

    shown = heads(rows)
    said = [in_words(row) for row in rows]
    for row, line in zip(rows, said, strict=True):
        if row["errors"]:  # below the table, where there is room
            line["all"] = "none"
    lines = [[line.get(head, "") for head in shown] for line in said]
    table = _table_of(shown, lines)
    if _width(table) > common.console.width:
        named = shown.index("ratio") + 1
        lines = [[*map(_broken, line[:named]), *map(_narrow, line[named:])] for line in lines]
        table = _table_of(map(_narrow, shown), lines, air=0)
    common.console.print(table)
    reasons = dict.fromkeys(error for row in rows for error in row["errors"])
    for text in (*reasons, *footnotes(rows)):
        common.say(text)
    common.say(
        f"Accuracy in % of the last epoch on the {scored_on} part, mean ± s.d. over the seeds; seconds and "
        "Wh are a seed's."
    )


def _width(table: Table) -> int:
    """How wide the table wants to be."""
    wide = common.console.options.update(width=10_000)
    return common.console.measure(table, options=wide).maximum


def _table_of(heads: Iterable[str], lines: list[list[str]], air: int = 1) -> Table:
    # No figure is ever cut: where there is no room, `_narrow` has broken the lines, and names are folded.
    columns = (
        Column(head, no_wrap=head not in ("method", "told", "ratio"), overflow="fold")
        for head in heads
    )
    table = Table(
        *columns, box=SIMPLE_HEAD, padding=(0, 0, 0, air), pad_edge=False, show_edge=False
    )
    for line in lines:
        table.add_row(*map(common.plain, line))
    return table


def predicts_table(result: dict[str, Any]) -> None:
    """What tells the class before any training: the sentence of each property that does, and all in a table."""
    common.say(f"{result['title']}: {result['heading']}")
    for clue in result["clues"]:
        if clue["found"]:
            common.say(f"- {clue['text']} {clue['how']}".rstrip())
    if result["clues"]:
        lines = [
            {
                "property": clue["label"],
                "right": f"{clue['accuracy']:.1%}",
                "95 % interval": f"{clue['low']:.1%} to {clue['high']:.1%}",
                "chance": f"{clue['chance']:.1%}",
                "p": "< 0.001" if clue["p"] < 0.001 else f"{clue['p']:.3f}",
                "told": "yes" if clue["found"] else "no",
            }
            for clue in result["clues"]
        ]
        common.console.print(_table_of(lines[0], [list(line.values()) for line in lines]))
        common.say(result["note"])


NARROW = {
    "published": "pub-\nlished", "conflicting": "conflic-\nting", "worst group": "worst\ngroup",
    "best on validation": "best on\nvalid.", "seconds": "sec-\nonds",
}  # fmt: skip


def _narrow(text: str) -> str:
    """A head or a figure on several lines, as narrow as its longest word."""
    return NARROW.get(text) or text.replace(" %", "").replace(" ± ", "\n± ")


def _broken(text: str) -> str:
    """A method, a bias or a ratio on several lines."""
    for mark in (", ", "-", "+"):
        text = text.replace(mark, f"{mark.strip()}\n")
    return text


def generalisation_table(found: dict[str, Any]) -> None:
    """Where each method works, by planted bias, and the verdicts in sentences."""
    from debias_core.study.generalisation import in_lines, sentences

    heads, *lines = in_lines(found)
    table = Table(*heads)
    for line in lines:
        table.add_row(*map(common.plain, line))
    common.console.print(table)
    common.say("\n".join(sentences(found)))


def sweep_table(found: dict[str, Any]) -> None:
    """A sweep's cells, one a line, in 80 columns."""
    shown = {
        "score": "accuracy %", "label_fidelity": "label %", "look_fidelity": "look %", "kid": "KID",
        "seconds_per_image": "s/img",
    }  # fmt: skip
    axes = found["cells"][0]["at"]
    per_point = [cell.get("seconds_per_point") for cell in found["cells"]]
    gained = any(spent is not None for spent in per_point)
    heads = [Column(head, no_wrap=True) for head in (*shown.values(), *(["s/pt"] * gained))]
    names = (Column(name, overflow="fold") for name in axes)
    table = Table(*names, *heads, box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for cell, spent in zip(found["cells"], per_point, strict=True):
        figures = {key: cell[key] for key in shown}
        words = [
            "unknown" if figure is None
            else f"{figure['mean']:.3f}" if key in ("kid", "seconds_per_image")
            else mean_and_sd(figure["per_seed"]).removesuffix(" %")
            for key, figure in figures.items()
        ]  # fmt: skip
        if gained:
            words.append(
                "none" if spent is None else f"{spent:.1f}" if spent < 100 else f"{spent:.0f}"
            )
        table.add_row(*cell["at"].values(), *words)
    common.console.print(table)
    vanilla = list(
        dict.fromkeys(mean_and_sd(cell["vanilla"]["per_seed"]) for cell in found["cells"])
    )
    common.say(
        f"{found['scored_on'].capitalize()}; mean ± s.d. over seeds. Vanilla: {', '.join(vanilla)}. Label: the "
        "share of images that show the content's class; look: that are nearer to the original's colour."
        + (" s/pt: seconds of generation for each point over vanilla." if gained else "")
    )


def write_tables(
    result: dict[str, Any], *, csv_file: Path | None, markdown_file: Path | None
) -> None:
    """The files of --csv and --markdown."""
    from debias_core.study import generalisation
    from debias_core.study.cells import over_seeds
    from debias_core.study.table_text import as_csv, as_markdown

    if csv_file is not None:
        common.write_text(csv_file, as_csv(result["cells"]))
    if markdown_file is not None:
        rows = result.get("rows") or [over_seeds(result["cells"])]
        text = as_markdown(rows)
        if "generalisation" in result:
            text += "\n" + generalisation.as_markdown(result["generalisation"])
        common.write_text(markdown_file, text)


def best_line(cells: list[dict[str, Any]]) -> str:
    """The accuracy of the epochs that were best on the validation part; empty where there is none."""
    best = [c["best_on_validation"] for c in cells]
    if not all(best):
        return ""
    said = mean_and_sd([b["unbiased_accuracy"] for b in best])
    return f"\nthe epoch that is best on validation images instead of the last: {said}"


def ddb_table(result: dict[str, Any]) -> None:
    """A recipe beside its ablation and the oracle, and what it was made of."""
    columns = {
        "vanilla": "vanilla", "debiased": result["method"],
        "real_amplifier": "the same, amplifier trained on real images",
        "groupdro": "GroupDRO, true groups (oracle)",
    }  # fmt: skip
    accuracy_table(result, columns=columns)
    lines = [
        f"{result['dataset']}, {len(result['seeds'])} seeds at {ratio_in_words(result['ratio_percent'])} "
        f"conflicting, scored on the {result['scored_on']} part.{best_line(result['cells'])}"
    ]
    if share := result["aligned_share"]:
        over = ", ".join(f"w {w}: {v:.2f}" for w, v in (share["by_w"] or {}).items())
        lines.append(
            f"bias-aligned share: training images {two(share['training'])}, synthetic images "
            f"{two(share['synthetic'])} at w {share['w']:g} (seed 0: {over}), read by {share['by']}"
        )
    ap = {n: two(a["average_precision"]) for n, a in result["amplifiers"].items()}
    lines.append(
        f"average precision: GCE audit {ap['gce']}, amplifier on real images {ap['real']}, on "
        f"synthetic images {ap['synthetic']}"
    )
    if found := result["pseudo_groups"]:
        lines.append(
            f"pseudo-groups: {found['flagged']} images flagged, precision "
            f"{two(found['precision'])}, recall {two(found['recall'])}"
        )
        if any(found["empty"]):
            most = max(map(len, found["empty"]))
            lines.append(f"up to {most} groups a seed are empty and left out")
    seconds = ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items())
    lines.append(
        f"{result['synthetic_count']} synthetic images a seed, U-Net forward-equivalents each: "
        f"{two(result['unet_evaluations_per_image'])}\nseconds: {seconds}\n"
        f"{energy_line(result['energy'])}"
    )
    common.say("\n".join(lines))


def _percent(value: dict[str, Any] | None) -> str:
    return mean_and_sd([None] if value is None else value["per_seed"])


def accuracy_table(result: dict[str, Any], columns: dict[str, str] | None = None) -> None:
    """Four accuracies of each arm (`columns`: its heading), mean ± s.d. over the seeds, and what is published."""
    columns = columns or {"vanilla": "vanilla", "debiased": "debiased"}
    published = {arm: figures for arm, figures in result.get("published", {}).items() if figures}
    table = Table(
        "test accuracy, last epoch",
        *columns.values(),
        *(f"published: {columns[a]}" for a in published),
    )
    names = (
        ("all", "unbiased_accuracy"), ("bias-aligned", "aligned_accuracy"),
        ("bias-conflicting", "conflicting_accuracy"), ("worst group", "worst_group_accuracy"),
    )  # fmt: skip
    for label, key in names:
        printed = [f"{100 * p[key]:.2f} %" if key in p else "" for p in published.values()]
        figures = [_percent(result[arm][key]) for arm in columns]
        table.add_row(label, *figures, *printed)
    common.console.print(table)


def benchmark_table(result: dict[str, Any]) -> None:
    """The loop on a named data set, before and after."""
    accuracy_table(result, {"vanilla": "vanilla", "debiased": result["method"]})
    seconds = ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items())
    label, look = result["label_fidelity"], result["look_fidelity"]
    common.say(
        f"{result['dataset']}, {result['method']}, {len(result['seeds'])} seeds at "
        f"{ratio_in_words(result['ratio_percent'])} conflicting, scored on the {result['scored_on']} part."
        f"{best_line(result['cells'])}\n"
        f"precision@{result['k']} {two(result['precision_at_k'])}, average precision "
        f"{two(result['average_precision'])}\n"
        f"{result['synthetic_count']} synthetic images a seed, "
        f"{result['unet_evaluations_per_image']:.1f} U-Net forward-equivalents each\n"
        f"label fidelity: content's class {two(label['content'])}, original's "
        f"{two(label['original'])}, neither {two(label['neither'])}\n"
        f"its judge: {augment_words.judge(label['judges'][0])}\n"
        f"look fidelity: nearer to the original's colour {two(look['look'])}\n"
        f"seconds: {seconds}\n{energy_line(result['energy'])}"
    )


def energy_line(energy: dict[str, Any]) -> str:
    """Wh of each stage, and grams of CO₂."""
    kwh = energy["kwh"]
    if kwh["total"] is None:
        return "energy: not measured"
    parts = ", ".join(f"{k} {1000 * v:.2f}" for k, v in kwh.items() if v is not None)
    return f"energy, Wh: {parts}; {energy['grams']:.1f} gCO2eq at {energy['grams_per_kwh']:g} g/kWh"


def two(value: dict[str, Any] | None) -> str:
    """A mean to two places."""
    return "unknown" if value is None else f"{value['mean']:.2f}"
