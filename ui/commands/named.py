"""Commands on a named data set, over seeds: the demo, and the field's table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from debias_core import baseline_settings, presets
from debias_core import config as cfg
from debias_core.records import UserError
from ui.commands import common, tables
from ui.commands.options import (
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
    json_file: JsonFile = None,
) -> None:
    """The whole loop on the built-in Colored Digits: audit, inject, debias, inspect."""
    if classroom:
        from ui.server import serve as run_server

        run_server(
            workspace.resolve(), host=host, port=port, roots=(), open_browser=False, auth=auth,
            extra_hosts=allow_host or (), in_classroom=True,
        )  # fmt: skip
        return
    if method in cfg.RECIPES:
        given = {
            "top-k": top_k, "per-class": per_class, "gamma": gamma, "t-edit": t_edit,
            "t-start": t_start, "steps": steps, "count": count, "contents": contents,
            "contents-per-original": contents_per_original, "devices": devices,
            "cluster": cluster, "guidance": guidance,
        }  # fmt: skip
        _ddb_benchmark(
            "digits", workspace, method, given, json_file, ratio=ratio, seeds=seeds,
            validation=validation, network=network, audit_epochs=audit_epochs, epochs=epochs, lr=lr,
            batch_size=batch_size,
        )  # fmt: skip
        return
    from debias_core.workspace.benchmark import run_demo

    common.check_json(json_file)
    where, afield = common.devices(devices, cluster)
    settings = _benchmark(
        "digits", ratio=ratio, seeds=seeds, validation=validation, network=network,
        audit_epochs=audit_epochs, epochs=epochs, lr=lr, batch_size=batch_size,
        top_k=top_k, per_class=per_class, text_filter=text_filter, recombine=recombine, guidance=guidance,
        method=method, gamma=gamma, t_edit=t_edit, t_start=t_start, steps=steps, count=count, contents=contents,
        contents_per_original=contents_per_original,
    )  # fmt: skip
    stage = run_demo(workspace, settings, device=where[0], devices=where, cluster=afield)
    result = common.run(stage)
    tables.benchmark_table(result)
    common.console.print(f"report: {result['report']}", markup=False, highlight=False)
    common.write_json(json_file, result)


@command.command()
def benchmark(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(presets.BENCHMARKS)}.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    data: Data = None,
    preset: Preset = "small",
    size: Annotated[
        int | None, typer.Option(help="Photographs: side in pixels, if not the preset's.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One or more of {', '.join(baseline_settings.TABLE)}. Several of them, several ratios or one of "
            "the field's baselines make a table, cell by cell (default: diffinject)."
        ),
    ] = None,
    bias: Annotated[
        list[str] | None,
        typer.Option(
            help=f"digits and cmnist: plant another bias, one or more of {', '.join(cfg.BIASES)}, two at "
            "once as in colour+corner, or all. Several make the generalisation table."
        ),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            help="digits, cmnist: a share of the training images, with their bias, that tells the best "
            "epoch beside the last."
        ),
    ] = 0.0,
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            help="Percent of bias-conflicting images, one or more of those at which the data set is "
            "published (0.5, 1, 2, 5; Dogs & Cats and BAR 1, 5; the others have one training set); digits "
            "and cmnist: 0 to 20."
        ),
    ] = None,
    seeds: Seeds = 3,
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
            help="As the papers have it. Baselines with an MLP: divide pixels by 255 twice, as their code does; "
            f"diffinject on {', '.join(presets.PAPER_READING)}: all of its paper's settings.",
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
    from debias_core.data import layouts
    from debias_core.data.benchmarks import OWN_BIAS
    from debias_core.data.originals import look_in
    from debias_core.workspace.benchmark import benchmark_project, run_benchmark
    from ui import words

    there = None
    if data is not None:
        look_in(data.expanduser())
        if dataset in words.MADE_HERE:
            there = layouts.folder_of(layouts.official(dataset))
    official = there is not None
    methods = list(dict.fromkeys(method or ["diffinject"]))
    ratios: list[float | None] = list(
        dict.fromkeys([*ratio] if ratio else [_base(dataset, preset).percent])
    )
    if unknown := [
        m for m in methods if m not in (*baseline_settings.TABLE, *baseline_settings.PUBLISHED_ONLY)
    ]:
        raise UserError(
            f"There is no method '{unknown[0]}' in the tool. Choose from: {', '.join(baseline_settings.TABLE)}."
        )
    for path in (json_file, csv_file, markdown_file):
        common.check_json(path)
    training: dict[str, Any] = {
        "network": network, "epochs": epochs, "lr": lr, "batch_size": batch_size,
    }  # fmt: skip
    baselines = set(methods) & set(baseline_settings.BASELINE_METHODS)
    images = [m for m in methods if m in (*cfg.METHODS, "diffubias", "amplibias")]
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
    if extra := [f"--{name}" for name, value in idle.items() if value is not None]:
        raise UserError(f"{methods[0]} does not know {', '.join(extra)}: leave it out.")
    as_published = "diffinject" in methods and dataset in presets.PAPER_READING
    if paper_protocol and not baselines and not as_published:
        raise UserError(f"{methods[0]} does not know --paper-protocol: use --network mlp255.")

    def settings(
        name: str, at: float | None, kind: str
    ) -> cfg.BenchmarkConfig | cfg.DDBBenchmarkConfig:
        shared: dict[str, Any] = {"ratio": at, "seeds": seeds, "validation": validation}
        shared |= {"preset": preset, "size": size, "bias": kind, "hold_out": hold_out}
        shared["official"] = official
        if name in cfg.RECIPES:
            return _ddb_settings(dataset, name, audit_epochs=audit_epochs, **shared, **training)
        if name in (*baseline_settings.BASELINE_METHODS, *baseline_settings.PUBLISHED_ONLY):
            base = benchmark_of(dataset, "diffinject", at, preset)
            base = replace(base, seeds=seeds, validation=validation)
            return common.changed(base, size=size, bias=kind, hold_out=hold_out, official=official)
        return _benchmark(
            dataset, audit_network=audit_network, audit_epochs=audit_epochs, loss=retrain_loss,
            synthetic_share=synthetic_share, top_k=top_k, per_class=per_class, text_filter=text_filter,
            recombine=recombine, guidance=guidance, method=name, gamma=gamma, t_edit=t_edit,
            t_start=t_start, steps=steps, inversion=inversion, mode=mode, direct=common.times(direct),
            precision=precision, mask=common.box(mask), count=count, contents=contents,
            label_from=label_from, contents_per_original=contents_per_original,
            paper=paper_protocol and as_published and name == "diffinject", **shared, **training,
        )  # fmt: skip

    where, afield = common.devices(devices, cluster)
    if dataset == "cifar10c" and images:
        common.console.print(words.LOW_LEVEL, markup=False)
    which = words.OFFICIAL.format(there) if official else words.MADE_HERE.get(dataset, "")
    if which:
        common.console.print(which, markup=False, highlight=False)
    kinds = list(dict.fromkeys(bias or [""]))
    if "all" in kinds:
        kinds = [*cfg.BIASES, "colour+corner"]
    # What it has already is planted in its own way, and has its own name.
    kinds = list(dict.fromkeys("" if k == OWN_BIAS.get(dataset) else k for k in kinds))
    one = settings(methods[0], ratios[0], kinds[0])
    files = {"csv_file": csv_file, "markdown_file": markdown_file}
    one_by_one = (*baseline_settings.BASELINE_METHODS, *baseline_settings.PUBLISHED_ONLY)
    if len(methods) > 1 or len(ratios) > 1 or bias or methods[0] in one_by_one:
        from debias_core.workspace.cells import Row, run_cells

        rows = [
            Row(
                name,
                settings(name, at, kind),
                baseline_settings.baseline_config(
                    dataset,
                    name,
                    paper_protocol=paper_protocol,
                    precision=precision,
                    jtt_epochs=jtt_epochs,
                    jtt_times=jtt_times,
                    preset=preset,
                    percent=at,
                    weight_decay=weight_decay,
                    **training,
                )
                if name in baseline_settings.BASELINE_METHODS
                else None,
            )
            for kind in kinds
            for at in ratios
            for name in methods
        ]
        result = common.run(
            run_cells(
                workspace, rows, seeds=range(seeds), device=where[0], devices=where, cluster=afield
            )
        )
        tables.cells_table(result["rows"], result["scored_on"])
        if "generalisation" in result:
            tables.generalisation_table(result["generalisation"])
    elif isinstance(one, cfg.DDBBenchmarkConfig):
        result = _run_ddb(workspace, one, afield)
        tables.ddb_table(result)
    else:
        stage = run_benchmark(
            one, lambda seed: benchmark_project(workspace, one, seed),
            device=where[0], devices=where, cluster=afield,
        )  # fmt: skip
        result = common.run(stage)
        del result["arms"]
        tables.benchmark_table(result)
    if which:
        result["data"] = which
    tables.write_tables(result, **files)
    common.write_json(json_file, result)


def _ddb_benchmark(
    dataset: str,
    workspace: Path,
    recipe: str,
    given: dict[str, Any],
    json_file: Path | None,
    **options: Any,
) -> None:
    """A recipe of DDB over seeds; `given` are options that it has no use for."""
    common.check_json(json_file)
    if extra := [f"--{name}" for name, value in given.items() if value is not None]:
        raise UserError(f"{recipe} does not know {', '.join(extra)}: leave it out.")
    result = _run_ddb(workspace, _ddb_settings(dataset, recipe, **options))
    tables.ddb_table(result)
    common.write_json(json_file, result)


def _ddb_settings(
    dataset: str,
    recipe: str,
    *,
    ratio: float | None,
    seeds: int,
    validation: bool,
    preset: str = "small",
    size: int | None = None,
    bias: str = "",
    hold_out: float = 0.0,
    official: bool = False,
    network: str | None,
    audit_epochs: int | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
) -> cfg.DDBBenchmarkConfig:
    """A recipe's preset with the options that were given."""
    if dataset not in presets.DDB:
        raise UserError(
            f"{recipe} has no settings for '{dataset}'. Choose: {', '.join(presets.DDB)}."
        )
    base = presets.DDB[dataset]
    if dataset in presets.PHOTOGRAPHS:
        base = presets.photographs_ddb(dataset, preset, size)
    final_net = common.changed(
        base.ddb.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
    )
    bias_net = common.changed(base.audit.classifier, network=network, epochs=audit_epochs)
    return replace(
        base,
        percent=ratio,
        seeds=seeds,
        validation=validation,
        bias=bias,
        hold_out=hold_out,
        official=official,
        audit=replace(base.audit, classifier=bias_net),
        amplify=replace(
            base.amplify, classifier=common.changed(base.amplify.classifier, network=network)
        ),
        ddb=replace(base.ddb, recipe=recipe, classifier=final_net),
    )


def _run_ddb(
    workspace: Path, settings: cfg.DDBBenchmarkConfig, cluster: Any = None
) -> dict[str, Any]:
    from debias_core.workspace.benchmark import benchmark_project
    from debias_core.workspace.ddb_benchmark import run_ddb_benchmark

    stage = run_ddb_benchmark(
        settings, lambda seed: benchmark_project(workspace, settings, seed), device=common.device(),
        cluster=cluster,
    )  # fmt: skip
    return common.run(stage)


def _benchmark(
    dataset: str,
    *,
    ratio: float | None,
    seeds: int,
    validation: bool,
    preset: str = "small",
    size: int | None = None,
    bias: str = "",
    hold_out: float = 0.0,
    official: bool = False,
    network: str | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    top_k: int | None,
    per_class: bool | None,
    audit_epochs: int | None,
    audit_network: str | None = None,
    loss: str | None = None,
    synthetic_share: float | None = None,
    text_filter: bool = True,
    recombine: bool = False,
    guidance: float | None = None,
    paper: bool = False,
    **inject: Any,
) -> cfg.BenchmarkConfig:
    """The data set's preset, or with `paper` the paper's settings, with the options that were given."""
    base = common.changed(benchmark_of(dataset, inject["method"], ratio, preset), size=size)
    if paper:
        base = presets.paper_reading(base)
    if base.draw is not None:
        drawn = {name: inject.get(name) for name in ("count", "steps")}
        draw_ = common.changed(
            base.draw, text_filter=text_filter, recombine=recombine, guidance=guidance, **drawn
        )
        base, inject = replace(base, draw=draw_), {}
    if base.gan is not None:
        drawn = {name: inject.get(name) for name in ("count", "steps")}
        base, inject = replace(base, gan=common.changed(base.gan, **drawn)), {}
        per_class = True if per_class is None else per_class  # as the method has it
    bias_net = common.changed(
        base.audit.classifier, network=audit_network or network, epochs=audit_epochs
    )
    final_net = common.changed(
        base.debias.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size,
        loss=loss,
    )  # fmt: skip
    audit_ = replace(base.audit, classifier=bias_net)
    return replace(
        base,
        seeds=seeds,
        validation=validation,
        bias=bias,
        hold_out=hold_out,
        official=official,
        audit=common.changed(audit_, top_k=top_k, per_class=per_class),
        inject=common.changed(base.inject, **inject),
        debias=common.changed(
            replace(base.debias, classifier=final_net), synthetic_share=synthetic_share
        ),
    )


def _base(dataset: str, preset: str = "small") -> cfg.BenchmarkConfig:
    """The preset of a named data set."""
    if dataset not in presets.BENCHMARKS:
        raise UserError(
            f"There is no benchmark '{dataset}'. Choose one of: {', '.join(presets.BENCHMARKS)}."
        )
    if dataset in presets.PHOTOGRAPHS:
        return presets.photographs(dataset, preset)
    return presets.BENCHMARKS[dataset]


def benchmark_of(
    dataset: str, method: str, percent: float | None, preset: str = "small"
) -> cfg.BenchmarkConfig:
    """The preset of a named data set, for this method."""
    base = replace(_base(dataset, preset), percent=percent)
    if method != "diffinject" and dataset not in presets.PHOTOGRAPHS:
        # The share is DiffInject's; the others' images are taken as they are.
        base = replace(base, debias=replace(base.debias, synthetic_share=None))
    if method == "diffubias":
        describe_, draw_ = presets.DIFFUBIAS.get(dataset, (cfg.CaptionConfig(), cfg.DrawConfig()))
        return replace(base, describe=describe_, draw=draw_)
    if method == "amplibias":
        return replace(base, gan=cfg.GANConfig(count=base.inject.count))
    if method == "crossinject":
        return replace(base, inject=presets.CROSSINJECT.get(dataset, base.inject))
    return base
