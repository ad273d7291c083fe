"""Commands on a named data set, over seeds: the demo, and the field's table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from debias_core.data.catalog import DATA_SETS, names_made_here, own_bias
from debias_core.methods.catalog import METHODS, names_of
from debias_core.methods.offers import offers_of, unknown_to
from debias_core.presets.data_sets import DIFFUBIAS_IMAGES, PAPER_READING
from debias_core.records import UserError
from debias_core.settings.base import Offer
from debias_core.settings.data_sets import BIASES, DDBBenchmarkConfig, NamedDataConfig
from debias_core.study import rows
from ui.cli import common, tables
from ui.cli.common import (
    DEFAULT_WORKSPACE,
    AllowHost,
    Auth,
    Data,
    Devices,
    JsonFile,
    OnCluster,
    Preset,
    Ratio,
    RootPath,
    Seeds,
    Workspace,
)
from ui.cli.from_settings import Given, refuse, takes
from ui.words import data as data_words

command = typer.Typer()
# What the demo runs: the whole loop, or a recipe.
IN_DEMO = [name for name, method in METHODS.items() if method.family != "training"]
_DEMO = [offer for name in IN_DEMO for offer in offers_of(METHODS[name])]
_EVERY = [offer for method in METHODS.values() for offer in offers_of(method)]
_PART = Offer(NamedDataConfig, fields=("validation",))

Biases = Annotated[
    list[str] | None,
    typer.Option(
        help=f"{' and '.join(names_made_here(grey=True))}: plant another bias, one or more of "
        f"{', '.join(BIASES)}, two at once as in colour+corner, or all. Several make the generalisation table."
    ),
]
Ratios = Annotated[
    list[float] | None,
    typer.Option(help=f"Percent of bias-conflicting images, one or more. {data_words.RATIOS}."),
]
Backbone = Annotated[
    str,
    typer.Option(
        help="Train heads on the features of this frozen network: efficientnet-lite0, torchvision:NAME, timm:NAME, "
        "transformers:FOLDER; photographs at 160 px."
    ),
]
Generator = Annotated[
    str | None,
    typer.Option(
        help="diffinject and crossinject: draw with a model that was trained on the biased training part here, once "
        "a data set, bias, ratio and seed, and told nothing (biased); or with the one that ships, which was told "
        "that colours are interchangeable (shipped). By default biased in a table and with --paper-protocol, "
        "shipped where one method is told in full."
    ),
]
PaperProtocol = Annotated[
    bool,
    typer.Option(
        "--paper-protocol",
        help="As the papers have it. Baselines with an MLP: divide pixels by 255 twice, as their code does "
        "(jtt and group-dro at a rate that suits this); "
        f"diffinject on {', '.join(PAPER_READING)}: all of its paper's settings; diffubias: K, epochs and number of "
        "images as in its text.",
    ),
]


@command.command()
@takes(*_DEMO, _PART)
def demo(
    workspace: Workspace = DEFAULT_WORKSPACE,
    method: Annotated[
        str, typer.Option(help=" ".join(f"{n}: {METHODS[n].sentence}" for n in IN_DEMO))
    ] = "diffinject",
    ratio: Ratio = 1.0,
    seeds: Seeds = 3,
    *,
    given: Given,
    devices: Devices = None,
    cluster: OnCluster = None,
    classroom: Annotated[
        bool, typer.Option(help="Serve the demo instead, with a sandbox for every visitor.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="With --classroom: address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --classroom: port to listen on.")] = 7860,
    auth: Auth = None,
    allow_host: AllowHost = None,
    root_path: RootPath = "",
    json_file: JsonFile = None,
) -> None:
    """The whole loop on the built-in Colored Digits: audit, inject, debias, inspect."""
    if classroom:
        from ui.server.start import serve as run_server

        run_server(
            workspace.resolve(), host=host, port=port, roots=(), open_browser=False, auth=auth,
            extra_hosts=allow_host or (), root_path=root_path, in_classroom=True,
        )  # fmt: skip
        return
    common.check_json(json_file)
    _refuse_unknown([method], METHODS)
    if method not in IN_DEMO:
        raise UserError(f"The demo has no {method}: run `benchmark digits --method {method}`.")
    elsewhere = {"devices": devices, "cluster": cluster}
    _refuse_idle([method], given, {} if METHODS[method].makes_images else elsewhere)
    on = rows.row_of("digits", method, ratio, seeds=seeds, **given).on
    if isinstance(on, DDBBenchmarkConfig):
        result = _run_recipe(workspace, on)
        tables.ddb_table(result)
    else:
        from debias_core.study.benchmark import run_demo

        where, on_cluster = common.devices(devices, cluster)
        stage = run_demo(workspace, on, device=where[0], devices=where, cluster=on_cluster)
        result = common.run(stage)
        tables.benchmark_table(result)
        common.say(f"report: {result['report']}")
    common.write_json(json_file, result)


@dataclass(frozen=True)
class _Output:
    """The files that a person asked for, and which images the numbers are of."""

    json_file: Path | None
    csv_file: Path | None
    markdown_file: Path | None
    data: str = ""

    def write(self, result: dict[str, Any], *, quiet: bool = True) -> None:
        """Write what there is so far."""
        if self.data:
            result["data"] = self.data
        tables.write_tables(result, csv_file=self.csv_file, markdown_file=self.markdown_file)
        common.write_json(self.json_file, result, quiet=quiet)


@command.command()
@takes(Offer(NamedDataConfig, fields=("size", "hold_out")), *_EVERY, _PART)
def benchmark(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(DATA_SETS)}.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    data: Data = None,
    preset: Preset = "small",
    backbone: Backbone = "",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One or more of {', '.join(METHODS)}. Several of them, several ratios or one of "
            "the field's baselines make a table, cell by cell (default: diffinject)."
        ),
    ] = None,
    bias: Biases = None,
    ratio: Ratios = None,
    seeds: Seeds = 3,
    first_seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="The first of the seeds: with --seeds 2, 1 is seeds 1 and 2. Several programs may fill "
            "one workspace, each with seeds of its own.",
        ),
    ] = 0,
    *,
    given: Given,
    devices: Devices = None,
    cluster: OnCluster = None,
    paper_protocol: PaperProtocol = False,
    generator: Generator = None,
    json_file: JsonFile = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the cells to this file.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table to this file.")
    ] = None,
) -> None:
    """A named data set, over seeds, beside the published figures; resumable, a table cell by cell."""
    published = _published_images(dataset, data)
    methods = list(dict.fromkeys(method or ["diffinject"]))
    _refuse_unknown(methods, METHODS)
    for path in (json_file, csv_file, markdown_file):
        common.check_json(path)
    making_images = [name for name in methods if METHODS[name].makes_images]
    idle = _idle_generator(methods, generator) | ({} if making_images else {"devices": devices})
    _refuse_idle(methods, given, idle)
    if paper_protocol:
        _check_protocol(dataset, methods)
    where, on_cluster = common.devices(devices, cluster)

    # One method that is no training is told in full, all else cell by cell
    percents = [*dict.fromkeys([*ratio] if ratio else [rows.base_of(dataset, preset).percent])]
    one = len(methods) == len(percents) == 1 and not (bias or first_seed)
    in_full = one and methods[0] not in names_of("training")
    if generator is None and (paper_protocol or not in_full):
        generator = rows.table_generator(dataset)

    # Every row of the table
    wanted = [
        rows.row_of(
            dataset, name, percent, bias=kind, seeds=seeds, preset=preset,
            official=published is not None, paper_protocol=paper_protocol, generator=generator,
            backbone=backbone, **given,
        )
        for kind in _planted(dataset, bias or [""])
        for percent in percents
        for name in methods
    ]  # fmt: skip

    # They are run
    machines = {"device": where[0], "devices": where, "cluster": on_cluster}
    said = _say_which_images(dataset, published, making_images)
    output = _Output(json_file, csv_file, markdown_file, said)
    if in_full:
        result = _in_full(workspace, wanted[0], seeds, machines, output)
    else:
        which = range(first_seed, first_seed + seeds)
        result = _cell_by_cell(workspace, wanted, which, machines, output)
    output.write(result, quiet=False)


def _published_images(dataset: str, folder: Path | None) -> Path | None:
    """Where the published images lie of a data set that can be made here, if --data has them."""
    from debias_core.data.importing import finding
    from debias_core.data.making.originals import look_in

    if folder is None:
        return None
    look_in(folder.expanduser())
    official = DATA_SETS[dataset].official if dataset in DATA_SETS else None
    return finding.folder_of(official.name) if official else None


def _say_which_images(dataset: str, published: Path | None, making_images: Iterable[str]) -> str:
    """Which images a data set stands for here, printed; "" where its name says it."""
    data_set = DATA_SETS[dataset]
    if data_set.warning and making_images:
        common.say(data_set.warning)
    if published is not None:
        which = data_words.OFFICIAL.format(published)
    else:
        which = data_words.made_here(data_set)
    if which:
        common.say(which)
    return which


def _planted(dataset: str, biases: Iterable[str]) -> list[str]:
    """The biases of --bias, "" for the data set's own: that is planted in its own way."""
    kinds = [*BIASES, "colour+corner"] if "all" in biases else biases
    return list(dict.fromkeys("" if kind == own_bias(dataset) else kind for kind in kinds))


def _refuse_unknown(methods: Iterable[str], known: Iterable[str]) -> None:
    if unknown := [name for name in methods if name not in known]:
        raise UserError(
            f"There is no method '{unknown[0]}' in the tool. Choose from: {', '.join(known)}."
        )


def _refuse_idle(methods: list[str], given: Given, idle: dict[str, Any]) -> None:
    """Refuse the options that none of the methods has a use for: settings, or `idle` where it is given."""
    unknown = unknown_to([METHODS[name] for name in methods], given)
    refuse(methods[0], [*unknown, *(name for name, value in idle.items() if value is not None)])


def _idle_generator(methods: Iterable[str], generator: str | None) -> dict[str, Any]:
    """The option --generator, where no injection is among the methods."""
    return {} if set(methods) & set(names_of("injection")) else {"generator": generator}


def _check_protocol(dataset: str, methods: Iterable[str]) -> None:
    """Refuse --paper-protocol where there is none."""
    trainings = set(methods) & set(names_of("training"))
    known = {"diffinject": [*PAPER_READING], "diffubias": [*DIFFUBIAS_IMAGES]}
    if not trainings and not any(dataset in known.get(name, []) for name in methods):
        first = next(iter(methods))
        raise UserError(f"{first} does not know --paper-protocol: use --network mlp255.")


def _cell_by_cell(
    workspace: Path, wanted: list[rows.Row], seeds: range, machines: dict[str, Any], output: _Output
) -> dict[str, Any]:
    """The field's table, printed and returned."""
    from debias_core.study.cells import run_cells

    stage = run_cells(workspace, wanted, seeds=seeds, told=output.write, **machines)
    result = common.run(stage)
    tables.cells_table(result["rows"], result["scored_on"])
    if "generalisation" in result:
        tables.generalisation_table(result["generalisation"])
    return result


def _in_full(
    workspace: Path, row: rows.Row, seeds: int, machines: dict[str, Any], output: _Output
) -> dict[str, Any]:
    """One method with all that it was made of, printed and returned; its cells are kept for a table."""
    from debias_core.study.benchmark import benchmark_project, run_benchmark
    from debias_core.study.cells import keep_made, note_wanted

    def keep(result: dict[str, Any]) -> None:
        keep_made(workspace, row, result["cells"])
        note_wanted(workspace, [row], range(seeds), ())
        output.write(result)

    note_wanted(workspace, [row], range(seeds), ())
    on = row.on
    if isinstance(on, DDBBenchmarkConfig):
        result = _run_recipe(workspace, on, machines["cluster"], keep)
        tables.ddb_table(result)
        return result
    result = common.run(
        run_benchmark(
            on, lambda seed: benchmark_project(workspace, on, seed), told=keep, **machines
        )
    )
    del result["arms"]
    tables.benchmark_table(result)
    return result


def _run_recipe(
    workspace: Path, on: DDBBenchmarkConfig, cluster: Any = None, told: Any = None
) -> dict[str, Any]:
    from debias_core.study.benchmark import benchmark_project
    from debias_core.study.ddb_benchmark import run_ddb_benchmark

    stage = run_ddb_benchmark(
        on, lambda seed: benchmark_project(workspace, on, seed), device=common.device(),
        cluster=cluster, told=told,
    )  # fmt: skip
    return common.run(stage)
