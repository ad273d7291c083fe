"""Published data sets, below Train: a table of the field, begun here and shown as its cells are finished."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from debias_core.data.catalog import DATA_SETS
from debias_core.methods.catalog import METHODS
from debias_core.presets.data_sets import BENCHMARKS
from debias_core.records import UserError, ratio_in_words
from debias_core.settings.data_sets import RATIOS
from debias_core.study.settings import TableConfig
from debias_core.workspace.project import notes
from ui.shown import rows as shown_rows
from ui.shown.place import Place
from ui.tabs.panel import Part, download_link, enqueue, guarded, link_to, seeds_slider
from ui.words import field_table as field_table_words
from ui.words import train as train_words

# Where a column is empty its head is not to be broken into letters.
WIDTHS = {
    "method": 170, "told": 130, "bias": 135, "seeds": 75, "published": 105, "seconds": 85, "Wh": 75,
}  # fmt: skip
OTHERS = 110
OWN = "own"  # a ratio that has no number, as the page's component has it
# What the components can hold at all: a server that was started anew knows nothing of a page's narrower lists.
NAMES = [(data_set.title, name) for name, data_set in DATA_SETS.items()]
EVERY = [(ratio_in_words(r), f"{r:g}") for r in RATIOS] + [(ratio_in_words(None), OWN)]


def published(place: Place, project: gr.Dropdown) -> Part:
    """Choose a data set, see its table, and have more of it filled."""
    base = TableConfig()
    with gr.Accordion(field_table_words.FIELD_TITLE, open=False):
        # What to fill, and how.
        gr.Markdown(field_table_words.FIELD_INTRO)
        with gr.Row():
            # Without a value: `refresh` opens on the table that was begun last.
            dataset = gr.Dropdown(
                NAMES, value=None, label=field_table_words.FIELD_DATASET, min_width=290
            )
            ratios = gr.CheckboxGroup(
                EVERY, value=[], label=field_table_words.FIELD_RATIOS, min_width=240
            )
            seeds = seeds_slider(base.seeds, min_width=240)
            protocol = gr.Checkbox(
                base.paper_protocol, label=field_table_words.FIELD_PROTOCOL,
                info=field_table_words.FIELD_PROTOCOL_INFO, min_width=240,
            )  # fmt: skip
        methods = gr.CheckboxGroup(
            [(method.title, name) for name, method in METHODS.items()],
            value=[], label=train_words.COMPARE_METHODS, info=field_table_words.FIELD_INFO,
        )  # fmt: skip
        button = gr.Button(field_table_words.FIELD_BUTTON)

        # The table, and its files. A line that scrolls sideways keeps its method.
        status = gr.Markdown()
        table = gr.Dataframe(
            datatype="str", interactive=False, visible=False, show_label=False, wrap=True,
            max_height=900, pinned_columns=1,
        )  # fmt: skip
        below = gr.Markdown(visible=False)
        with gr.Row():
            files = [download_link() for _ in field_table_words.FIELD_FILES]

    shown = [ratios, methods, status, table, below, *files]
    dataset.input(guarded(choose, place), dataset, shown, show_progress="hidden")
    asked = [project, dataset, ratios, methods, seeds, protocol]
    begun = button.click(guarded(run, place), asked, None)
    return Part([dataset, *shown], partial(refresh, place), [], [begun], [dataset])


def refresh(place: Place, project_name: str, chosen: str | None) -> tuple[Any, ...]:
    """The table that is chosen; at first the one that was begun last."""
    place.project(project_name)
    newest = [path.stem for path in notes(place.workspace) if path.stem in BENCHMARKS]
    name = chosen or [TableConfig().dataset, *newest][-1]
    form = (gr.skip(), gr.skip()) if chosen else _form(name)
    return gr.update(choices=_choices(), value=name), *form, *_table(place, name)


def choose(place: Place, name: str) -> tuple[Any, ...]:
    """What can be asked for with another data set, and its table."""
    return *_form(name), *_table(place, name)


def run(
    place: Place, project_name: str, name: str, ratios: list[str], methods: list[str],
    seeds: float, protocol: bool,
) -> None:  # fmt: skip
    """Queue the filling of a table."""
    from debias_core.study import field_table

    project = place.project(project_name)
    at = tuple(None if r == OWN else float(r) for r in ratios)
    config = TableConfig(name, tuple(methods), at, int(seeds), protocol)
    # What can't be run is said now, not by a job.
    field_table.rows_of(config)
    if missing := field_table.missing(name, at):
        raise UserError(missing)
    enqueue(project, "benchmark", config)


def _form(name: str) -> tuple[Any, ...]:
    """The ratios and methods that there are for a data set."""
    from debias_core.study import field_table

    known, there = field_table.methods_for(name), field_table.ratios_of(name)
    first = 1.0 if 1.0 in there and None not in there else there[0]
    return (
        gr.update(choices=[(ratio_in_words(r), _text(r)) for r in there], value=[_text(first)]),
        gr.update(
            choices=[(METHODS[m].title, m) for m in known], value=list(TableConfig().methods)
        ),
    )


def _table(place: Place, name: str) -> tuple[Any, ...]:
    """The table as it is on disk, or where to get the data."""
    from debias_core.study import field_table

    table, missing = field_table.table_of(place.workspace, name), field_table.missing(name)
    columns, lines = shown_rows.table_rows(table)
    warning = [f"⚠️ {shown_rows.literal(missing)}"] if missing else []
    footnotes = shown_rows.table_notes(table)
    return (
        "\n\n".join([*warning, field_table_words.field_status(table)]),
        gr.update(
            visible=bool(lines),
            value={"headers": columns, "data": lines},
            column_widths=[f"{WIDTHS.get(column, OTHERS)}px" for column in columns],
        ),
        gr.update(visible=bool(footnotes), value=footnotes),
        *(
            link_to(
                f"{place.prefix}/table/{name}/{what}",
                field_table_words.FIELD_SAVE.format(kind),
                bool(lines),
            )
            for what, kind in field_table_words.FIELD_FILES.items()
        ),
    )


def _text(percent: float | None) -> str:
    return OWN if percent is None else f"{percent:g}"


def _choices() -> list[tuple[str, str]]:
    """Every data set of the field, with a word behind those that are not on this machine."""
    from debias_core.study import field_table

    absent = field_table_words.FIELD_MISSING
    return [
        (absent.format(text) if field_table.missing(name) else text, name) for text, name in NAMES
    ]
