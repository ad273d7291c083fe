"""Commands on a named data set, over seeds: the demo, and the field's table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from debias_core.data.catalog import DATA_SETS, names_made_here, own_bias
from debias_core.methods.catalog import METHODS, names_of
from debias_core.presets.data_sets import PAPER_READING
from debias_core.records import UserError
from debias_core.settings.data_sets import BIASES, DDBBenchmarkConfig
from debias_core.study import rows
from ui.cli import common, tables
from ui.cli.options import (
    DEFAULT_WORKSPACE,
    AllowHost,
    AuditEpochs,
    Auth,
    BatchSize,
    Contents,
    Count,
    Data,
    Devices,
    Direct,
    Epochs,
    Gamma,
    Guidance,
    Inversion,
    JsonFile,
    Lr,
    Mask,
    Method,
    Mode,
    Network,
    OnCluster,
    PerClass,
    Precision,
    Preset,
    Ratio,
    Recombine,
    RootPath,
    Seeds,
    Shared,
    Steps,
    SyntheticShare,
    TEdit,
    TextFilter,
    TopK,
    TStart,
    Validation,
    Workspace,
)
from ui.words import data as data_words

command = typer.Typer()


@command.command()
def demo(
    workspace: Workspace = DEFAULT_WORKSPACE,
    method: Method = "diffinject",
    ratio: Ratio = 1.0,
    seeds: Seeds = 3,
    network: Network = None,
    top_k: TopK = None,
    per_class: PerClass = None,
    gamma: Gamma = None,
    t_edit: TEdit = None,
    t_start: TStart = None,
    steps: Steps = None,
    count: Count = None,
    contents: Contents = None,
    contents_per_original: Shared = None,
    devices: Devices = None,
    cluster: OnCluster = None,
    audit_epochs: AuditEpochs = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    text_filter: TextFilter = True,
    recombine: Recombine = False,
    guidance: Guidance = None,
    validation: Validation = False,
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
        from ui.server.serve import serve as run_server

        run_server(
            workspace.resolve(), host=host, port=port, roots=(), open_browser=False, auth=auth,
            extra_hosts=allow_host or (), root_path=root_path, in_classroom=True,
        )  # fmt: skip
        return
    common.check_json(json_file)
    row = rows.row_of(
        "digits", method, ratio, seeds=seeds, validation=validation, network=network,
        audit_epochs=audit_epochs, epochs=epochs, lr=lr, batch_size=batch_size,
        top_k=top_k, per_class=per_class, text_filter=text_filter, recombine=recombine, guidance=guidance,
        gamma=gamma, t_edit=t_edit, t_start=t_start, steps=steps, count=count, contents=contents,
        contents_per_original=contents_per_original,
    )  # fmt: skip
    settings = row.on
    if isinstance(settings, DDBBenchmarkConfig):
        idle = {
            "top-k": top_k, "per-class": per_class, "gamma": gamma, "t-edit": t_edit,
            "t-start": t_start, "steps": steps, "count": count, "contents": contents,
            "contents-per-original": contents_per_original, "devices": devices,
            "cluster": cluster, "guidance": guidance,
        }  # fmt: skip
        _refuse(method, idle)
        result = _run_ddb(workspace, settings)
        tables.ddb_table(result)
        common.write_json(json_file, result)
        return
    from debias_core.study.benchmark import run_demo

    where, afield = common.devices(devices, cluster)
    stage = run_demo(workspace, settings, device=where[0], devices=where, cluster=afield)
    result = common.run(stage)
    tables.benchmark_table(result)
    common.console.print(f"report: {result['report']}", markup=False, highlight=False)
    common.write_json(json_file, result)


@command.command()
def benchmark(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(DATA_SETS)}.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    data: Data = None,
    preset: Preset = "small",
    size: Annotated[
        int | None, typer.Option(help="Photographs: side in pixels, if not the preset's.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One or more of {', '.join(METHODS)}. Several of them, several ratios or one of "
            "the field's baselines make a table, cell by cell (default: diffinject)."
        ),
    ] = None,
    bias: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{' and '.join(names_made_here(grey=True))}: plant another bias, one or more of {', '.join(BIASES)}, two at "
            "once as in colour+corner, or all. Several make the generalisation table."
        ),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            help=f"{', '.join(names_made_here(grey=True))}: a share of the training images, with their bias, that "
            "tells the best epoch beside the last."
        ),
    ] = 0.0,
    ratio: Annotated[
        list[float] | None,
        typer.Option(help=f"Percent of bias-conflicting images, one or more. {data_words.RATIOS}."),
    ] = None,
    seeds: Seeds = 3,
    first_seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="The first of the seeds: with --seeds 2, 1 is seeds 1 and 2. Several programs may fill "
            "one workspace, each with seeds of its own.",
        ),
    ] = 0,
    network: Network = None,
    audit_network: Annotated[
        str | None, typer.Option(help="Network of the bias classifier, if another.")
    ] = None,
    top_k: TopK = None,
    per_class: PerClass = None,
    gamma: Gamma = None,
    t_edit: TEdit = None,
    t_start: TStart = None,
    steps: Steps = None,
    inversion: Inversion = None,
    mode: Mode = None,
    direct: Direct = None,
    precision: Precision = None,
    mask: Mask = None,
    count: Count = None,
    contents: Contents = None,
    contents_per_original: Shared = None,
    devices: Devices = None,
    cluster: OnCluster = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay of the field's baselines.")
    ] = None,
    jtt_epochs: Annotated[
        int | None, typer.Option(help="jtt: epochs of the first net (T).")
    ] = None,
    jtt_times: Annotated[
        int | None, typer.Option(help="jtt: how often its errors are drawn (λ).")
    ] = None,
    label_from: Annotated[
        str | None, typer.Option(help="Label of a synthetic image: content's or original's.")
    ] = None,
    audit_epochs: AuditEpochs = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    synthetic_share: SyntheticShare = None,
    retrain_loss: Annotated[str | None, typer.Option(help="ce or gce.")] = None,
    text_filter: TextFilter = True,
    recombine: Recombine = False,
    guidance: Guidance = None,
    paper_protocol: Annotated[
        bool,
        typer.Option(
            "--paper-protocol",
            help="As the papers have it. Baselines with an MLP: divide pixels by 255 twice, as their code does "
            "(jtt and group-dro at a rate that suits this); "
            f"diffinject on {', '.join(PAPER_READING)}: all of its paper's settings.",
        ),
    ] = False,
    validation: Validation = False,
    json_file: JsonFile = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the cells to this file.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table to this file.")
    ] = None,
) -> None:
    """A named data set, over seeds, beside the published figures; resumable, a table cell by cell."""
    from debias_core.data.importing import finding
    from debias_core.data.making.originals import look_in
    from debias_core.study.benchmark import benchmark_project, run_benchmark

    there = None
    if data is not None:
        look_in(data.expanduser())
        if dataset in DATA_SETS and (published := DATA_SETS[dataset].official):
            there = finding.folder_of(published.name)
    official = there is not None
    methods = list(dict.fromkeys(method or ["diffinject"]))
    own = rows.base_of(dataset, preset).percent
    ratios: list[float | None] = list(dict.fromkeys([*ratio] if ratio else [own]))
    if unknown := [m for m in methods if m not in METHODS]:
        raise UserError(
            f"There is no method '{unknown[0]}' in the tool. Choose from: {', '.join(METHODS)}."
        )
    for path in (json_file, csv_file, markdown_file):
        common.check_json(path)
    training: dict[str, Any] = {
        "network": network, "epochs": epochs, "lr": lr, "batch_size": batch_size,
    }  # fmt: skip
    baselines = set(methods) & set(names_of("training"))
    images = [m for m in methods if METHODS[m].makes_images]
    # What none of the methods knows.
    idle: dict[str, Any] = {} if images else {
        "audit-network": audit_network, "top-k": top_k, "per-class": per_class, "gamma": gamma,
        "t-edit": t_edit, "t-start": t_start, "steps": steps, "inversion": inversion, "mode": mode,
        "direct": direct, "mask": mask, "count": count, "contents": contents,
        "contents-per-original": contents_per_original, "devices": devices, "label-from": label_from,
        "synthetic-share": synthetic_share, "retrain-loss": retrain_loss, "guidance": guidance,
    }  # fmt: skip
    if not images and "lff" not in methods:
        idle["precision"] = precision
    if baselines == set(methods):
        idle["audit-epochs"] = audit_epochs
    if not baselines:
        idle["weight-decay"] = weight_decay
    if "jtt" not in methods:
        idle |= {"jtt-epochs": jtt_epochs, "jtt-times": jtt_times}
    _refuse(methods[0], idle)
    as_published = "diffinject" in methods and dataset in PAPER_READING
    if paper_protocol and not baselines and not as_published:
        raise UserError(f"{methods[0]} does not know --paper-protocol: use --network mlp255.")

    def row(name: str, at: float | None, kind: str) -> rows.Row:
        return rows.row_of(
            dataset, name, at, bias=kind, seeds=seeds, validation=validation, preset=preset, size=size,
            hold_out=hold_out, official=official, weight_decay=weight_decay, paper_protocol=paper_protocol,
            precision=precision, jtt_epochs=jtt_epochs, jtt_times=jtt_times, audit_network=audit_network,
            audit_epochs=audit_epochs, loss=retrain_loss, synthetic_share=synthetic_share, top_k=top_k,
            per_class=per_class, text_filter=text_filter, recombine=recombine, guidance=guidance,
            gamma=gamma, t_edit=t_edit, t_start=t_start, steps=steps, inversion=inversion, mode=mode,
            direct=common.times(direct), mask=common.box(mask), count=count, contents=contents,
            label_from=label_from, contents_per_original=contents_per_original, **training,
        )  # fmt: skip

    where, afield = common.devices(devices, cluster)
    data_set = DATA_SETS[dataset]
    if data_set.warning and images:
        common.console.print(data_set.warning, markup=False)
    which = data_words.OFFICIAL.format(there) if official else data_words.made_here(data_set)
    if which:
        common.console.print(which, markup=False, highlight=False)
    kinds = list(dict.fromkeys(bias or [""]))
    if "all" in kinds:
        kinds = [*BIASES, "colour+corner"]
    # What it has already is planted in its own way, and has its own name.
    kinds = list(dict.fromkeys("" if k == own_bias(dataset) else k for k in kinds))
    wanted = [row(name, at, kind) for kind in kinds for at in ratios for name in methods]

    def write(result: dict[str, Any], *, quiet: bool = True) -> None:
        if which:
            result["data"] = which
        tables.write_tables(result, csv_file=csv_file, markdown_file=markdown_file)
        common.write_json(json_file, result, quiet=quiet)

    if len(methods) > 1 or len(ratios) > 1 or bias or first_seed or methods[0] in baselines:
        from debias_core.study.cells import run_cells

        result = common.run(
            run_cells(
                workspace, wanted, seeds=range(first_seed, first_seed + seeds), device=where[0],
                devices=where, cluster=afield, told=write,
            )
        )  # fmt: skip
        tables.cells_table(result["rows"], result["scored_on"])
        if "generalisation" in result:
            tables.generalisation_table(result["generalisation"])
        write(result, quiet=False)
        return
    from debias_core.study.cells import keep_made, note_wanted

    (one,) = wanted

    def keep(result: dict[str, Any]) -> None:
        keep_made(workspace, one, result["cells"])
        note_wanted(workspace, wanted, range(seeds), ())
        write(result)

    note_wanted(workspace, wanted, range(seeds), ())
    if isinstance(one.on, DDBBenchmarkConfig):
        result = _run_ddb(workspace, one.on, afield, keep)
        tables.ddb_table(result)
    else:
        on = one.on
        stage = run_benchmark(
            on, lambda seed: benchmark_project(workspace, on, seed),
            device=where[0], devices=where, cluster=afield, told=keep,
        )  # fmt: skip
        result = common.run(stage)
        del result["arms"]
        tables.benchmark_table(result)
    write(result, quiet=False)


def _refuse(method: str, idle: dict[str, Any]) -> None:
    """Refuse the options (name: value) that were given and that the method has no use for."""
    if extra := [f"--{name}" for name, value in idle.items() if value is not None]:
        raise UserError(f"{method} does not know {', '.join(extra)}: leave it out.")


def _run_ddb(
    workspace: Path, settings: DDBBenchmarkConfig, cluster: Any = None, told: Any = None
) -> dict[str, Any]:
    from debias_core.study.benchmark import benchmark_project
    from debias_core.study.ddb_benchmark import run_ddb_benchmark

    stage = run_ddb_benchmark(
        settings, lambda seed: benchmark_project(workspace, settings, seed), device=common.device(),
        cluster=cluster, told=told,
    )  # fmt: skip
    return common.run(stage)
