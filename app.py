"""The door to Debias Studio: `python app.py` serves the page, `python app.py STAGE …` runs one stage."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from debias_core import baseline_settings, presets, ranks
from debias_core import config as cfg
from debias_core.records import Progress, Stage, UserError, mean_and_sd, ratio_in_words

T = TypeVar("T")

command = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=False)
console = Console(quiet=not ranks.leads())


def _workspace(context: typer.Context, path: Path) -> Path:
    """The folder of the projects; of several processes only the first writes into it."""
    path = path.expanduser()
    if not ranks.several() or context.parent is None:  # the page's, which no stage looks at
        return path
    from debias_core.workspace.shadow import shadow_of

    ranks.wait()
    mine = path if ranks.leads() else shadow_of(path)
    ranks.wait()  # nothing changes while the others look
    return mine


Workspace = Annotated[
    Path,
    typer.Option(
        help="Folder that holds the projects.",
        envvar="DEBIAS_WORKSPACE",
        callback=_workspace,
    ),
]
Name = Annotated[str, typer.Option(help="The project's name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every number to this file.")]
Auth = Annotated[
    str | None,
    typer.Option(
        metavar="USER:PASSWORD", envvar="DEBIAS_AUTH",
        help="Ask for this user and password (the environment's DEBIAS_AUTH stays out of `ps`).",
    ),
]  # fmt: skip
AllowHost = Annotated[
    list[str] | None,
    typer.Option(help="Another name under which the page may be opened, behind a proxy, say."),
]
# Options of more than one command.
Method = Annotated[
    str,
    typer.Option(
        help="diffinject (contents: the audit's top-K), crossinject (any image, originals of other "
        "classes) or, for demo and benchmark, diffubias (captions of the top-K, images drawn from them), "
        "ddb-1 or ddb-2 (Diffusing DeBias)."
    ),
]
Ratio = Annotated[
    float, typer.Option(help="Percent of bias-conflicting images, 0 to 20, or 100: no bias.")
]
Seeds = Annotated[int, typer.Option(help="Number of seeds.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder that holds the published data sets (default: DEBIAS_DATA, shared/data beside the "
        "project, ~/.cache/debias-studio).",
    ),
]
Preset = Annotated[
    str,
    typer.Option(help="Photographs: small (64 px, a CPU) or paper (the papers' size, a GPU)."),
]
Network = Annotated[str | None, typer.Option(help="mlp, mlp255, conv or resnet18.")]
TopK = Annotated[int | None, typer.Option(help="Contents to inject.")]
PerClass = Annotated[bool | None, typer.Option(help="Take top-k in each class.")]
Gamma = Annotated[float | None, typer.Option(help="The content's share, 0 to 1.")]
Direct = Annotated[
    str | None,
    typer.Option(
        help="Falling times t, as in 400,200: predict at each from the noised images, instead of "
        "inversion and --steps (needs a model trained with swaps)."
    ),
]
Precision = Annotated[
    str | None, typer.Option(help="float32, or bf16 inside the network (faster where it pays).")
]
Mode = Annotated[str | None, typer.Option(help="slerp, lerp, add or replace.")]
TEdit = Annotated[int | None, typer.Option(help="Inject while t ≥ this.")]
TStart = Annotated[
    int | None, typer.Option(help="Invert to this t and start there (999: from x_T, as published).")
]
Steps = Annotated[int | None, typer.Option(help="Grid steps.")]
Inversion = Annotated[str | None, typer.Option(help="reference or fixed_point:m.")]
Mask = Annotated[
    str | None, typer.Option(help="Box left,top,right,bottom in fractions of the image.")
]
Count = Annotated[int | None, typer.Option(help="Synthetic images.")]
Contents = Annotated[
    int | None, typer.Option(help="crossinject: training images that give content.")
]
Shared = Annotated[int | None, typer.Option(help="Contents that share an original's inversion.")]
Devices = Annotated[
    str | None,
    typer.Option(
        help="Where to generate, a worker each, as in cuda:0,cuda:1 or cpu,cpu (default: every GPU, "
        "else the CPU)."
    ),
]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|HOST:PORT",
        help="Work on this Ray cluster instead (docs/scale.md): auto is the one that this machine belongs to.",
    ),
]
AuditEpochs = Annotated[int | None, typer.Option(help="Epochs of the bias classifier.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs of the retraining.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate of the retraining.")]
BatchSize = Annotated[int | None, typer.Option(help="Images a step of the retraining.")]
SyntheticShare = Annotated[
    float | None,
    typer.Option(
        help="Share of synthetic images in what is drawn for training (default: as they are)."
    ),
]
MinFidelity = Annotated[
    float | None,
    typer.Option(help="Leave out synthetic images of a lower label fidelity (0 to 1)."),
]
TextFilter = Annotated[
    bool,
    typer.Option(
        "--text-filter/--no-text-filter",
        help="diffubias: draw from the captions that the text filter keeps, or from all.",
    ),
]
Recombine = Annotated[
    bool,
    typer.Option(
        "--recombine",
        help="diffubias: draw each caption in every look that the captions name (ours).",
    ),
]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance of the drawings.")]
Beside = Annotated[
    bool, typer.Option("--beside", help="Keep the images of the current set with the new ones.")
]
Validation = Annotated[
    bool, typer.Option(help="Score on held-out training images; the test part stays unseen.")
]
DEFAULT_WORKSPACE = Path.home() / ".debias-studio"
DEFAULT_NAME = "my-images"


@command.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    workspace: Workspace = DEFAULT_WORKSPACE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder from which the page may import (default: your home and this one)."
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    cluster: OnCluster = None,
    auth: Auth = None,
    allow_host: AllowHost = None,
) -> None:
    """Find the images that a biased classifier can't explain, make more like them, retrain, and show
    what changed. Without a stage: serve the app on this machine."""
    if context.invoked_subcommand is not None:
        return
    if ranks.several():
        raise UserError("Several processes can't serve one page: start `python app.py` once.")
    from ui.server import serve as run_server

    roots = tuple(path.expanduser().resolve() for path in root or (Path.home(), Path.cwd()))
    missing = [path for path in roots if not path.is_dir()]
    if missing:
        raise UserError(f"--root {missing[0]} is not a folder.")
    _cluster(cluster)  # refused now, not by the first job
    run_server(
        workspace.resolve(), host=host, port=port, roots=roots, open_browser=browser, auth=auth,
        extra_hosts=allow_host or (), cluster=cluster,
    )  # fmt: skip


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

    _check_json(json_file)
    where, afield = _devices(devices, cluster)
    settings = _benchmark(
        "digits", ratio=ratio, seeds=seeds, validation=validation, network=network,
        audit_epochs=audit_epochs, epochs=epochs, lr=lr, batch_size=batch_size,
        top_k=top_k, per_class=per_class, text_filter=text_filter, recombine=recombine, guidance=guidance,
        method=method, gamma=gamma, t_edit=t_edit, t_start=t_start, steps=steps, count=count, contents=contents,
        contents_per_original=contents_per_original,
    )  # fmt: skip
    project = _project(workspace, "demo")
    stage = run_demo(workspace, settings, device=where[0], devices=where, cluster=afield)
    result = _run(stage, project)
    _benchmark_table(result)
    console.print(f"report: {result['report']}", markup=False, highlight=False)
    _write_json(json_file, result)


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
            help="Baselines with an MLP: divide pixels by 255 twice, as the papers' code does.",
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
    from debias_core.data.benchmarks import OWN_BIAS
    from debias_core.data.originals import look_in
    from debias_core.workspace.benchmark import benchmark_project, run_benchmark
    from ui import words

    if data is not None:
        look_in(data.expanduser())
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
        _check_json(path)
    training: dict[str, Any] = {
        "network": network, "epochs": epochs, "lr": lr, "batch_size": batch_size,
    }  # fmt: skip
    # What only methods that make images know.
    given = {
        "audit-network": audit_network, "top-k": top_k, "per-class": per_class, "gamma": gamma,
        "t-edit": t_edit, "t-start": t_start, "steps": steps, "inversion": inversion, "mode": mode,
        "direct": direct, "precision": precision, "mask": mask, "count": count,
        "contents": contents, "contents-per-original": contents_per_original,
        "devices": devices, "label-from": label_from, "synthetic-share": synthetic_share,
        "retrain-loss": retrain_loss, "guidance": guidance,
    }  # fmt: skip
    if "lff" in methods:
        given.pop("precision")
    extra = [f"--{name}" for name, value in given.items() if value is not None]
    images = [m for m in methods if m in (*cfg.METHODS, "diffubias", "amplibias")]
    if audit_epochs is not None and set(methods) <= set(baseline_settings.BASELINE_METHODS):
        extra.append("--audit-epochs")
    if extra and not images:
        raise UserError(f"{methods[0]} does not know {', '.join(extra)}: leave it out.")
    if paper_protocol and not any(m in baseline_settings.BASELINE_METHODS for m in methods):
        raise UserError(f"{methods[0]} does not know --paper-protocol: use --network mlp255.")

    def settings(
        name: str, at: float | None, kind: str
    ) -> cfg.BenchmarkConfig | cfg.DDBBenchmarkConfig:
        shared: dict[str, Any] = {"ratio": at, "seeds": seeds, "validation": validation}
        shared |= {"preset": preset, "size": size, "bias": kind, "hold_out": hold_out}
        if name in cfg.RECIPES:
            return _ddb_settings(dataset, name, audit_epochs=audit_epochs, **shared, **training)
        if name in (*baseline_settings.BASELINE_METHODS, *baseline_settings.PUBLISHED_ONLY):
            base = _benchmark_of(dataset, "diffinject", at, preset)
            base = replace(base, seeds=seeds, validation=validation)
            return _set(base, size=size, bias=kind, hold_out=hold_out)
        return _benchmark(
            dataset, audit_network=audit_network, audit_epochs=audit_epochs, loss=retrain_loss,
            synthetic_share=synthetic_share, top_k=top_k, per_class=per_class, text_filter=text_filter,
            recombine=recombine, guidance=guidance, method=name, gamma=gamma, t_edit=t_edit,
            t_start=t_start, steps=steps, inversion=inversion, mode=mode, direct=_times(direct),
            precision=precision, mask=_box(mask), count=count, contents=contents,
            label_from=label_from, contents_per_original=contents_per_original, **shared, **training,
        )  # fmt: skip

    where, afield = _devices(devices, cluster)
    if dataset == "cifar10c" and images:
        console.print(words.LOW_LEVEL, markup=False)
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
                    preset=preset,
                    percent=at,
                    **training,
                )
                if name in baseline_settings.BASELINE_METHODS
                else None,
            )
            for kind in kinds
            for at in ratios
            for name in methods
        ]
        result = _run(
            run_cells(
                workspace, rows, seeds=range(seeds), device=where[0], devices=where, cluster=afield
            )
        )
        _cells_table(result["rows"], result["scored_on"])
        if "generalisation" in result:
            _generalisation_table(result["generalisation"])
    elif isinstance(one, cfg.DDBBenchmarkConfig):
        result = _run_ddb(workspace, one, afield)
        _ddb_table(result)
    else:
        stage = run_benchmark(
            one, lambda seed: benchmark_project(workspace, one, seed),
            device=where[0], devices=where, cluster=afield,
        )  # fmt: skip
        result = _run(stage, benchmark_project(workspace, one, 0))
        del result["arms"]
        _benchmark_table(result)
    _write_tables(result, **files)
    _write_json(json_file, result)


def _cells_table(rows: list[dict[str, Any]], scored_on: str) -> None:
    from debias_core.workspace.cells import HEADS, in_words

    table = Table(*(Column(head, no_wrap=head in ("method", "ratio")) for head in HEADS))
    for row in rows:
        said = in_words(row)
        if row["errors"]:  # below the table, where there is room
            said[2] = "none"
        table.add_row(*map(_plain, said))
    console.print(table)
    for reason in dict.fromkeys(error for row in rows for error in row["errors"]):
        console.print(reason, markup=False, highlight=False)
    console.print(
        f"Accuracy of the last epoch on the {scored_on} part, mean ± s.d. over the seeds; seconds and Wh "
        "are a seed's.",
        markup=False,
        highlight=False,
    )


def _generalisation_table(found: dict[str, Any]) -> None:
    from debias_core.workspace.generalisation import in_lines, sentences

    heads, *lines = in_lines(found)
    table = Table(*heads)
    for line in lines:
        table.add_row(*map(_plain, line))
    console.print(table)
    console.print("\n".join(sentences(found)), markup=False, highlight=False)


def _write_tables(
    result: dict[str, Any], *, csv_file: Path | None, markdown_file: Path | None
) -> None:
    from debias_core.workspace import generalisation
    from debias_core.workspace.cells import as_csv, as_markdown, over_seeds

    if not ranks.leads():
        return
    if csv_file is not None:
        csv_file.expanduser().write_text(as_csv(result["cells"]), encoding="utf-8")
    if markdown_file is not None:
        rows = result.get("rows") or [over_seeds(result["cells"])]
        text = as_markdown(rows)
        if "generalisation" in result:
            text += "\n" + generalisation.as_markdown(result["generalisation"])
        markdown_file.expanduser().write_text(text, encoding="utf-8")


def _ddb_benchmark(
    dataset: str,
    workspace: Path,
    recipe: str,
    given: dict[str, Any],
    json_file: Path | None,
    **options: Any,
) -> None:
    """A recipe of DDB over seeds; `given` are options that it has no use for."""
    _check_json(json_file)
    if extra := [f"--{name}" for name, value in given.items() if value is not None]:
        raise UserError(f"{recipe} does not know {', '.join(extra)}: leave it out.")
    result = _run_ddb(workspace, _ddb_settings(dataset, recipe, **options))
    _ddb_table(result)
    _write_json(json_file, result)


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
    final_net = _set(
        base.ddb.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
    )
    bias_net = _set(base.audit.classifier, network=network, epochs=audit_epochs)
    return replace(
        base,
        percent=ratio,
        seeds=seeds,
        validation=validation,
        bias=bias,
        hold_out=hold_out,
        audit=replace(base.audit, classifier=bias_net),
        amplify=replace(base.amplify, classifier=_set(base.amplify.classifier, network=network)),
        ddb=replace(base.ddb, recipe=recipe, classifier=final_net),
    )


def _run_ddb(
    workspace: Path, settings: cfg.DDBBenchmarkConfig, cluster: Any = None
) -> dict[str, Any]:
    from debias_core.workspace.benchmark import benchmark_project
    from debias_core.workspace.ddb_benchmark import run_ddb_benchmark

    stage = run_ddb_benchmark(
        settings, lambda seed: benchmark_project(workspace, settings, seed), device=_device(),
        cluster=cluster,
    )  # fmt: skip
    return _run(stage, benchmark_project(workspace, settings, 0))


def _ddb_table(result: dict[str, Any]) -> None:
    columns = {
        "vanilla": "vanilla", "debiased": result["method"],
        "real_amplifier": "the same, amplifier trained on real images",
        "groupdro": "GroupDRO, true groups (oracle)",
    }  # fmt: skip
    _accuracy_table(result, columns=columns)
    lines = [
        f"{result['dataset']}, {len(result['seeds'])} seeds at {ratio_in_words(result['ratio_percent'])} "
        f"conflicting, scored on the {result['scored_on']} part."
    ]
    if share := result["aligned_share"]:
        over = ", ".join(f"w {w}: {v:.2f}" for w, v in (share["by_w"] or {}).items())
        lines.append(
            f"bias-aligned share: training images {_two(share['training'])}, synthetic images "
            f"{_two(share['synthetic'])} at w {share['w']:g} (seed 0: {over}), read by {share['by']}"
        )
    ap = {n: _two(a["average_precision"]) for n, a in result["amplifiers"].items()}
    lines.append(
        f"average precision: GCE audit {ap['gce']}, amplifier on real images {ap['real']}, on "
        f"synthetic images {ap['synthetic']}"
    )
    if found := result["pseudo_groups"]:
        lines.append(
            f"pseudo-groups: {found['flagged']} images flagged, precision "
            f"{_two(found['precision'])}, recall {_two(found['recall'])}"
        )
        if any(found["empty"]):
            most = max(map(len, found["empty"]))
            lines.append(f"up to {most} groups a seed are empty and left out")
    seconds = ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items())
    lines.append(
        f"{result['synthetic_count']} synthetic images a seed, U-Net forward-equivalents each: "
        f"{_two(result['unet_evaluations_per_image'])}\nseconds: {seconds}\n"
        f"{_energy_line(result['energy'])}"
    )
    console.print("\n".join(lines), markup=False, highlight=False)


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
    **inject: Any,
) -> cfg.BenchmarkConfig:
    """The data set's preset with the options that were given."""
    base = _set(_benchmark_of(dataset, inject["method"], ratio, preset), size=size)
    if base.draw is not None:
        drawn = {name: inject.get(name) for name in ("count", "steps")}
        draw_ = _set(
            base.draw, text_filter=text_filter, recombine=recombine, guidance=guidance, **drawn
        )
        base, inject = replace(base, draw=draw_), {}
    if base.gan is not None:
        drawn = {name: inject.get(name) for name in ("count", "steps")}
        base, inject = replace(base, gan=_set(base.gan, **drawn)), {}
        per_class = True if per_class is None else per_class  # as the method has it
    bias_net = _set(base.audit.classifier, network=audit_network or network, epochs=audit_epochs)
    final_net = _set(
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
        audit=_set(audit_, top_k=top_k, per_class=per_class),
        inject=_set(base.inject, **inject),
        debias=_set(replace(base.debias, classifier=final_net), synthetic_share=synthetic_share),
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


def _benchmark_of(
    dataset: str, method: str, percent: float | None, preset: str = "small"
) -> cfg.BenchmarkConfig:
    """The preset of a named data set, for this method."""
    base = replace(_base(dataset, preset), percent=percent)
    if method == "diffubias":
        describe_, draw_ = presets.DIFFUBIAS.get(dataset, (cfg.CaptionConfig(), cfg.DrawConfig()))
        return replace(base, describe=describe_, draw=draw_)
    if method == "amplibias":
        return replace(base, gan=cfg.GANConfig(count=base.inject.count))
    if method == "crossinject":
        return replace(base, inject=presets.CROSSINJECT.get(dataset, base.inject))
    return base


@command.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of class folders (or in a benchmark's official layout), a zip of such, or a CSV."
        ),
    ],
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    size: Annotated[int, typer.Option(help="Side of the images, in pixels.")] = 32,
    limit: Annotated[int | None, typer.Option(help="Take this many images at random.")] = None,
    ratio: Annotated[
        float | None,
        typer.Option(help="Which training set of an official layout: its percentage (1: 1pct/)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of held-out test part and limit.")] = 0,
    replace_project: Annotated[
        bool, typer.Option("--replace", help="Drop a project of this name first.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Bring in images; single bad files are reported and do not stop it."""
    from debias_core.data.importers import preview
    from debias_core.workspace import stages

    _check_json(json_file)
    project = _project(workspace, name)
    report = _run(
        stages.import_data(
            project, Path(source).expanduser(), size=size, limit=limit, seed=seed,
            replace=replace_project, percent=ratio,
        ),
        project,
    )  # fmt: skip
    console.print(preview(report), markup=False, highlight=False)
    _write_json(json_file, report.to_json())


@command.command()
def plant(
    bias: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(cfg.BIASES)}, or two at once as in colour+corner."),
    ],
    into: Annotated[str, typer.Option(help="Name of the new project.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    ratio: Annotated[
        float, typer.Option(help="Percent of training images that break the bias, 0 to 20.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Plant a known bias into a project's images, into a new project; the test part gets it evenly."""
    from debias_core.data.importers import preview
    from debias_core.workspace import stages

    _check_json(json_file)
    new = _project(workspace, into)
    report = _run(
        stages.run_plant(_project(workspace, name), new, bias, percent=ratio, seed=seed), new
    )
    console.print(preview(report), markup=False, highlight=False)
    _write_json(json_file, report.to_json())


@command.command()
def audit(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    network: Annotated[str, typer.Option(help="mlp, conv or resnet18.")] = "conv",
    epochs: Annotated[int | None, typer.Option(help="Epochs.")] = None,
    top_k: Annotated[int, typer.Option(help="K; 0: as many as f_B can't explain.")] = 10,
    per_class: Annotated[bool, typer.Option(help="K in each class.")] = False,
    until_split: Annotated[
        bool,
        typer.Option(
            "--until-split",
            help="End once f_B's view of the images has split into two groups; --epochs at most.",
        ),
    ] = False,
    by: Annotated[
        str, typer.Option(help="gce: train f_B; amplifier: rank by the losses of `amplify`'s.")
    ] = "gce",
    q: Annotated[float, typer.Option(help="GCE's q.")] = 0.7,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Train the bias classifier and rank the training images by its loss."""
    from debias_core.workspace import stages

    _check_json(json_file)
    base = cfg.AuditConfig()
    settings = replace(
        base,
        classifier=_set(base.classifier, network=network, epochs=epochs, q=q, lr=lr),
        top_k=top_k,
        per_class=per_class,
        until_split=until_split,
        by=by,
        seed=seed,
    )
    project = _project(workspace, name)
    result = _run(stages.run_audit(project, settings, device=_device()), project)
    table = Table("rank", "image", "loss", "given → predicted", title=result.top_k.rule)
    images = project.table()
    rows = images.where("train").positions(result.top_k.ids)
    pairs = zip(images.positions(result.top_k.ids), result.scores.pred[rows], strict=True)
    for rank, (at, pred) in enumerate(pairs, start=1):
        image = images.ids[at]
        given, said = images.class_names[images.y[at]], images.class_names[pred]
        loss = f"{result.top_k.loss[rank - 1]:.2f}"
        table.add_row(str(rank), _plain(image), loss, _plain(f"{given} → {said}"))
    console.print(table)
    scores = result.scores
    console.print(
        f"f_B can't explain {scores.unexplained:,} of {len(scores.ids):,} images (less than even odds for "
        f"their label); separation of the two groups {scores.separation:.3f}"
    )
    if result.precision_at_k is not None:
        ap = "unknown" if result.average_precision is None else f"{result.average_precision:.3f}"
        console.print(
            f"precision@{len(result.top_k.ids)} {result.precision_at_k:.2f}, average precision {ap}"
        )
    if result.warning:
        console.print(f"WARNING: {result.warning}", markup=False)
    _write_json(
        json_file,
        {
            "top_k": [str(i) for i in result.top_k.ids],
            "rule": result.top_k.rule,
            "train_accuracy": result.train_accuracy,
            "precision_at_k": result.precision_at_k,
            "average_precision": result.average_precision,
            "unexplained": scores.unexplained,
            "separation": scores.separation,
            "warning": result.warning,
            "settings": cfg.to_json(settings),
        },
    )


@command.command("audit-curve")
def audit_curve(
    dataset: Annotated[
        str | None,
        typer.Argument(help="digits, cmnist or cifar10c; by default the project --name."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    ratio: Ratio = 1.0,
    q: Annotated[str, typer.Option(help="GCE's q: one, or several with commas.")] = "0.7",
    network: Network = None,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Precision of the audit at every epoch, for each q and K; and what a choice without labels gives."""
    from debias_core.workspace.audit_curve import DEPTHS, run_audit_curve

    _check_json(json_file)
    try:
        qs = tuple(float(v) for v in q.split(","))
    except ValueError:
        raise UserError(f"--q must be numbers with commas, as in 0.5,0.7, but is '{q}'.") from None
    if dataset is None:
        project, base = _project(workspace, name), cfg.AuditConfig()
    else:
        project, base = _named_project(dataset, workspace, ratio), presets.BENCHMARKS[dataset].audit
    settings = replace(
        base, classifier=_set(base.classifier, network=network, epochs=epochs), seed=seed
    )
    found = _run(run_audit_curve(project.table(), settings, qs, device=_device()), project)
    table = Table(
        "q", "epoch", "average precision", *(f"precision@{n}" for n in DEPTHS), "unexplained",
        "their precision", "their recall", "separation",
    )  # fmt: skip
    for record in found:
        for which in ("best", "chosen", "last"):
            e = record["epochs"][record[which]]
            at = e["precision_at"]
            table.add_row(
                f"{record['q']:g}", f"{record[which] + 1} ({which})", f"{e['average_precision']:.3f}",
                *(f"{at[str(n)]:.2f}" if str(n) in at else "" for n in DEPTHS),
                f"{e['unexplained']:,}", f"{e['unexplained_precision']:.2f}",
                f"{e['unexplained_recall']:.2f}", f"{e['separation']:.3f}",
            )  # fmt: skip
    console.print(table)
    console.print(f"{found[0]['conflicting']:,} of {found[0]['images']:,} images conflict.")
    _write_json(json_file, {"curves": found, "settings": cfg.to_json(settings)})


@command.command()
def pretrain(
    what: Annotated[
        str,
        typer.Argument(
            help="'project' (its own images), 'digits' (the demo's model), 'mnist', 'cifar10', "
            "'digits-captioner' or 'digits-text2image' (the demo's small language models)."
        ),
    ] = "project",
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = False,
    swap: Annotated[
        float | None,
        typer.Option(
            help="Share of each batch in which h comes from another image in other colours, so that "
            "it carries shape and not colour (docs/methods.md, Swaps)."
        ),
    ] = None,
    restart: Annotated[bool, typer.Option(help="Begin anew instead of resuming.")] = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="digits, mnist, cifar10: a model's folder to begin with."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="digits, mnist, cifar10: where to write it (default assets/; cifar10: "
            "~/.cache/debias-studio/models)."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Train a diffusion model; interrupted, the same command goes on from the last checkpoint."""
    from debias_core.checkpoint import drop_checkpoint
    from debias_core.workspace import language, stages

    _check_json(json_file)
    project = None
    settings: Any
    if what in stages.PRETRAIN:
        preset, shipped, *_ = stages.PRETRAIN[what]
        settings = _set(
            presets.PRESETS[preset], steps=steps, batch_size=batch_size, lr=lr, swap=swap
        )
        checkpoint = workspace / f"pretrain-{what}"
        if restart:
            drop_checkpoint(checkpoint)
        out = out or shipped
        if not ranks.leads():
            out = workspace / "model"
        stage = stages.run_pretrain_named(
            what, out, settings, device=_device(), checkpoint=checkpoint, start=start
        )
    elif what in presets.SMALL_MODELS:
        if ranks.several():
            raise UserError(f"{what} is trained by one process: start it without a launcher.")
        settings = _set(presets.SMALL_MODELS[what], steps=steps, batch_size=batch_size, lr=lr)
        stage = language.run_pretrain_small(
            what, settings, device=_device(), out=out, restart=restart,
            checkpoint=workspace / f"pretrain-{what}",
        )  # fmt: skip
    elif what == "project":
        project = _project(workspace, name)
        settings = _set(
            presets.diffusion_for(project.table().image_size),
            steps=steps, batch_size=batch_size, lr=lr, flip=flip, swap=swap,
        )  # fmt: skip
        stage = stages.run_pretrain(project, settings, device=_device(), restart=restart)
    else:
        known = ", ".join(("project", *stages.PRETRAIN, *presets.SMALL_MODELS))
        raise UserError(f"There is no '{what}' to pretrain on. Choose one of: {known}.")
    folder = _run(stage, project)
    console.print(f"The model is in {folder}", markup=False)
    _write_json(json_file, {"folder": str(folder), "settings": cfg.to_json(settings)})


@command.command()
def generate(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    method: Method = "diffinject",
    count: Count = None,
    contents: Contents = None,
    gamma: Gamma = None,
    t_edit: TEdit = None,
    t_start: TStart = None,
    t_boost: Annotated[int | None, typer.Option(help="Add noise while t ≤ this.")] = None,
    steps: Steps = None,
    inversion: Inversion = None,
    mode: Mode = None,
    direct: Direct = None,
    precision: Precision = None,
    contents_per_original: Shared = None,
    mask: Mask = None,
    class_mask: Annotated[
        list[str] | None,
        typer.Option(
            help="CLASS=left,top,right,bottom: the mask for contents of one class; once for each class that "
            "has one, the others take the content everywhere."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
    devices: Devices = None,
    cluster: OnCluster = None,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast",
            help="Say what time, energy and memory this would take, from one batch that is made now, and stop.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(help="With --forecast: on so many workers (default: those at hand).", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    beside: Beside = False,
    json_file: JsonFile = None,
) -> None:
    """Make images with the content of some images and the look of others."""
    from debias_core.workspace import stages
    from ui import words as ui_words

    _check_json(json_file)
    where, afield = _devices(devices, cluster)
    settings = _set(
        cfg.InjectConfig(seed=seed), method=method, contents=contents, count=count, gamma=gamma, t_edit=t_edit, t_start=t_start, t_boost=t_boost,
        steps=steps, inversion=inversion, contents_per_original=contents_per_original,
        mode=mode, direct=_times(direct), precision=precision, mask=_box(mask), batch_size=batch_size,
    )  # fmt: skip
    project = _project(workspace, name)
    if class_mask:
        boxes = dict(_class_box(text) for text in class_mask)
        cells = stages.class_masks(project, boxes, swaps=bool(settings.direct))
        settings = replace(settings, class_masks=cells)
    if workers is not None and not forecast:
        raise UserError(
            "--workers belongs to --forecast; a run has those of --devices or --cluster."
        )
    if forecast:
        from debias_core.workspace.forecast import run_forecast

        said = _run(
            run_forecast(
                project, settings, device=where[0], devices=where, cluster=afield, team=workers
            ),
            project,
        )
        console.print(ui_words.forecast(asdict(said)), markup=False)
        _write_json(json_file, asdict(said))
        return
    made = _run(
        stages.run_generate(
            project, settings, device=where[0], devices=where, cluster=afield, beside=beside
        ),
        project,
    )
    held = project.manifest("synthetic").get("forecast")
    if held:
        console.print(ui_words.held_against(held), markup=False)
    console.print(
        f"{len(made.recipes)} images in {made.seconds:.1f} s, {made.evaluations_per_image:.1f} U-Net "
        f"forward-equivalents an image, {made.network_share:.0%} of the time inside the network."
    )
    _write_json(
        json_file,
        {
            "synthetic_count": len(made.recipes),
            "unet_evaluations_per_image": made.evaluations_per_image,
            "share_of_generation_in_network": made.network_share,
            "seconds": made.seconds,
            "forecast": held,
            "settings": cfg.to_json(settings),
        },
    )


@command.command()
def describe(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="Hub name or folder of an image-to-text model (default: BLIP base, for Colored Digits "
            "the small one that ships with the app)."
        ),
    ] = None,
    per_image: Annotated[int | None, typer.Option(help="Captions of each image.")] = None,
    question: Annotated[
        str | None, typer.Option(help="What a chat model (LLaVA) is asked.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest words; 1: as the model draws them.")
    ] = None,
    strike: Annotated[
        str | None, typer.Option(help="Words to strike from the text filter.")
    ] = None,
    add: Annotated[str | None, typer.Option(help="Words to add to the text filter.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Caption the top-K of the audit, and filter the captions by their most frequent words (DiffuBias)."""
    from debias_core.workspace import language

    _check_json(json_file)
    afield = _cluster(cluster)
    project = _project(workspace, name)
    settings = _set(
        cfg.CaptionConfig(model=language.default_models(project.table())[0], seed=seed),
        model=captioner, per_image=per_image, question=question, temperature=temperature,
    )  # fmt: skip
    stage = language.run_describe(project, settings, device=_device(), cluster=afield)
    found = _run(stage, project)
    changes = {w: on for text, on in ((strike, False), (add, True)) for w in _words(text)}
    if changes:
        language.switch_words(project, changes, f"cli-{time.time_ns()}")
        found = language.described(project)
    table = Table("image", "label", "caption", "kept")
    names = project.table().class_names
    for c in found.captions:
        table.add_row(
            _plain(c.image_id), _plain(names[c.label]), _plain(c.text), "✓" if c.kept else ""
        )
    console.print(table)
    words = ", ".join(f"{w.word} ({w.count})" + ("" if w.on else " struck") for w in found.words)
    kept = sum(c.kept for c in found.captions)
    console.print(
        f"Words: {words}\n{kept} of {len(found.captions)} captions hold one of them. "
        f"Stop words: {found.stop_words}.",
        markup=False,
    )
    shared = language.in_words(project)
    for finding in shared:
        console.print(f"{finding.text} (p {finding.p:.2g})", markup=False)
    if not shared:
        console.print("In words nothing stands out against the rest of the classes.")
    _write_json(json_file, {**asdict(found), "in_words": [asdict(f) for f in shared]})


@command.command()
def draw(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    text2image: Annotated[
        str | None,
        typer.Option(
            help="Hub name or folder of a text-to-image pipeline (default: Stable Diffusion 1.5, for "
            "Colored Digits the small one that ships with the app)."
        ),
    ] = None,
    count: Count = None,
    text_filter: TextFilter = True,
    recombine: Recombine = False,
    guidance: Guidance = None,
    steps: Steps = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of a side while drawing (0: the model's own).")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    beside: Beside = False,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Draw images from the captions of the top-K with a text-to-image model (DiffuBias)."""
    from debias_core.workspace import language

    _check_json(json_file)
    afield = _cluster(cluster)
    project = _project(workspace, name)
    settings = _set(
        language.draw_settings(project.table(), seed), model=text2image, count=count, guidance=guidance,
        steps=steps, size=size, negative=negative, batch_size=batch_size, text_filter=text_filter,
        recombine=recombine,
    )  # fmt: skip
    stage = language.run_draw(project, settings, device=_device(), cluster=afield, beside=beside)
    made = _run(stage, project)
    parts = project.manifest("synthetic").get("parts", [])
    refused = sum(part["refused"] for part in parts)
    console.print(
        f"The set has {len(made.recipes)} images now; {made.seconds:.1f} s in all"
        + (f"; the safety checker refused {refused}" if refused else "")
    )
    _write_json(
        json_file,
        {
            "synthetic_count": len(made.recipes),
            "refused": refused,
            "unet_evaluations_per_image": made.evaluations_per_image,
            "seconds": made.seconds,
            "settings": cfg.to_json(settings),
        },
    )


def _class_box(text: str) -> tuple[str, tuple[float, float, float, float]]:
    name, equals, box = text.rpartition("=")
    if not (name and equals):
        raise UserError(f"--class-mask must be CLASS=left,top,right,bottom, but is '{text}'.")
    found = _box(box)
    assert found is not None
    return name, found


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


@command.command("t-edit")
def t_edit_(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    by: Annotated[
        str,
        typer.Option(
            help="fidelity (needs nothing) or lpips (the papers' rule; needs AlexNet's weights)."
        ),
    ] = "fidelity",
    json_file: JsonFile = None,
) -> None:
    """Measure where injection should end on this project's images and model."""
    from debias_core.workspace import stages

    _check_json(json_file)
    project = _project(workspace, name)
    result = _run(stages.run_edit_time(project, by, device=_device()), project)
    what = "LPIPS" if by == "lpips" else "label fidelity"
    table = Table("t", what, *(["look fidelity"] if "look" in result else []))
    for i, (t, value) in enumerate(zip(result["timesteps"], result["values"], strict=True)):
        table.add_row(
            str(t), f"{value:.3f}", *([f"{result['look'][i]:.2f}"] if "look" in result else [])
        )
    console.print(table)
    console.print(f"t_edit {result['t_edit']}")
    _write_json(json_file, result)


@command.command("check-model")
def check_model(
    dataset: Annotated[
        str | None,
        typer.Argument(help="digits, cmnist or cifar10c (their own model); by default --name's."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    samples: Annotated[int, typer.Option(help="Images to draw for KID and FID.")] = 500,
    json_file: JsonFile = None,
) -> None:
    """Round trips, KID and FID of samples, and which number of steps passes the quality gate."""
    from debias_core.workspace.model_check import run_model_check

    _check_json(json_file)
    if not 10 <= samples <= 50_000:
        raise UserError(f"samples must be 10 to 50,000, but is {samples}.")
    project = _project(workspace, name) if dataset is None else _named_project(dataset, workspace)
    result = _run(run_model_check(project, device=_device(), samples=samples), project)
    trips = Table("round trip of unseen images", "steps", "PSNR, dB")
    for trip in result["round_trips"]:
        trips.add_row(trip["inversion"], str(trip["steps"]), f"{trip['psnr']:.1f}")
    console.print(trips)
    columns = ("round_trip", "to_faithful", "strength", "label_fidelity", "look_fidelity")
    gate = Table("steps", *(c.replace("_", " ") for c in columns), "passes the gate")
    for line in result["fewer_steps"]:
        shown = ("" if line[c] is None else f"{line[c]:.3g}" for c in columns)
        gate.add_row(str(line["steps"]), *shown, "yes" if line["passes"] else "no")
    console.print(gate)
    s = result["samples"]
    console.print(
        f"{s['count']} samples against unseen images: KID {s['kid']:.4f} ± {s['kid_error']:.4f}, "
        f"FID {s['fid']:.3f} (as many training images: {s['kid_of_training_images']:.4f}, "
        f"{s['fid_of_training_images']:.3f}), in our own classifier's features"
    )
    console.print(f"A sheet is in {project.folder('diffusion') / 'check.png'}", markup=False)
    _write_json(json_file, result)


def _named_project(dataset: str, workspace: Path, ratio: float = 1.0) -> Any:
    """The first project of a benchmark, with its data."""
    from debias_core.workspace.benchmark import benchmark_project, ensure_data

    if dataset in presets.PHOTOGRAPHS:
        raise UserError(
            f"Give --name: the project of '{dataset}' that `benchmark` or `import` made."
        )
    settings = _benchmark_of(dataset, "diffinject", ratio)
    project = benchmark_project(workspace, settings, 0)
    _run(ensure_data(project, settings, 0), project)
    return project


@command.command()
def sweep(
    dataset: Annotated[
        str | None,
        typer.Argument(help="digits, cmnist or cifar10c; by default the project --name."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTING=A,B,…",
            help=f"Once or twice; a setting is one of: {', '.join(cfg.SWEEPABLE)}.",
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    ratio: Ratio = 1.0,
    seeds: Seeds = 1,
    method: Annotated[str | None, typer.Option(help="diffinject or crossinject.")] = None,
    network: Network = None,
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
    audit_epochs: AuditEpochs = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    synthetic_share: SyntheticShare = None,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Try a grid of settings on held-out training images, at equal budgets; resumable cell by cell."""
    from debias_core.workspace import sweep as sweeps

    _check_json(json_file)
    afield = _cluster(cluster)
    axes = [_axis(text) for text in over or ()]
    if not 1 <= len(axes) <= 2:
        raise UserError("Give --over once or twice, as in --over gamma=0.3,0.6,0.9.")
    if dataset is None:
        project = _project(workspace, name)
        audit_, inject, debias_ = sweeps.base_settings(project)
    else:
        settings = _benchmark_of(dataset, method or "diffinject", ratio)
        project = _named_project(dataset, workspace, ratio)
        audit_, inject, debias_ = settings.audit, settings.inject, settings.debias
    bias_net = _set(audit_.classifier, network=network, epochs=audit_epochs)
    final_net = _set(
        debias_.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
    )
    config = cfg.SweepConfig(
        rows=axes[0],
        columns=axes[1] if len(axes) == 2 else None,
        seeds=seeds,
        audit=_set(replace(audit_, classifier=bias_net), top_k=top_k, per_class=per_class),
        inject=_set(
            inject, method=method, gamma=gamma, t_edit=t_edit, t_start=t_start, steps=steps, inversion=inversion,
            mode=mode, direct=_times(direct), precision=precision, mask=_box(mask), count=count,
            contents=contents, contents_per_original=contents_per_original,
        ),
        debias=_set(replace(debias_, classifier=final_net), synthetic_share=synthetic_share),
    )  # fmt: skip
    stage = sweeps.run_sweep(project, config, device=_device(), cluster=afield)
    result = _run(stage, project)
    table = Table(*(a.name for a in axes), *(key.replace("_", " ") for key in SWEEP_COLUMNS))
    for cell in result["cells"]:
        table.add_row(*cell["at"].values(), *(_figure(cell[key]) for key in SWEEP_COLUMNS))
    console.print(table)
    console.print(result["scored_on"], markup=False)
    if (drawn := project.root / "sweep" / "sheet.png").is_file():
        console.print(f"The first pairs of every cell are in {drawn}", markup=False)
    _write_json(json_file, result)


SWEEP_COLUMNS = ("score", "vanilla", "label_fidelity", "look_fidelity", "kid", "seconds_per_image")


def _axis(text: str) -> cfg.Axis:
    """SETTING=A,B,C → an axis of a sweep."""
    name, _, values = text.partition("=")
    return cfg.Axis.parse(name.strip().replace("-", "_"), values)


def _figure(value: dict[str, Any] | None) -> str:
    """Mean ± s.d. to three places."""
    if value is None:
        return "unknown"
    spread = f" ± {value['sd']:.3f}" if len(value["per_seed"]) > 1 else ""
    return f"{value['mean']:.3f}{spread}"


@command.command()
def amplify(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    w: Annotated[
        float | None, typer.Option(help="Guidance: ε = (1+w)·ε_c - w·ε_u; 0: the model itself.")
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of each class to draw.")] = None,
    steps: Steps = None,
    train_steps: Annotated[
        int | None, typer.Option(help="Training steps of the class-conditional model.")
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(help="What that model is trained to say: v, or epsilon as published."),
    ] = None,
    p2: Annotated[float | None, typer.Option(help="γ of the P2 weight; 0: plain MSE.")] = None,
    network: Network = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of the amplifier.")] = None,
    trained_on: Annotated[
        str | None, typer.Option(help="synthetic, or real: the paper's ablation.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    cluster: OnCluster = None,
    json_file: JsonFile = None,
) -> None:
    """Diffusing DeBias: draw more of the bias, and train the amplifier on those images; resumable."""
    from debias_core.workspace.amplify import amplify_settings, run_amplify

    _check_json(json_file)
    afield = _cluster(cluster)
    project = _project(workspace, name)
    base = amplify_settings(project)
    settings = _set(
        base, w=w, per_class=per_class, steps=steps, trained_on=trained_on, seed=seed,
        diffusion=_set(
            base.diffusion, steps=train_steps, p2_gamma=p2,
            unet=_set(base.diffusion.unet, prediction=prediction),
        ),
        classifier=_set(base.classifier, network=network, epochs=epochs),
    )  # fmt: skip
    stage = run_amplify(project, settings, device=_device(), cluster=afield)
    result = _run(stage, project)
    if share := result.get("aligned_share"):
        console.print(
            f"bias-aligned share: training images {share['training']:.2f}, synthetic images "
            f"{share['synthetic']:.2f} (read by {share['by']}, right on {share['reader_accuracy']:.2f})"
        )
    if result["average_precision"] is not None:
        console.print(f"average precision {result['average_precision']:.3f}")
    if "set" in result:
        sheet = project.folder("amplify") / "sheet.png"
        console.print(f"A row of images for each class is in {sheet}", markup=False)
    console.print("Next: `ddb --recipe ddb-1` or `ddb --recipe ddb-2`.")
    _write_json(json_file, result)


@command.command()
def ddb(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    recipe: Annotated[
        str, typer.Option(help="ddb-1 (pseudo-groups and GroupDRO) or ddb-2 (loss weights).")
    ] = "ddb-1",
    losses: Annotated[str, typer.Option(help="Whose: amplifier, or audit.")] = "amplifier",
    flags: Annotated[
        str, typer.Option(help="ddb-1: filtered (wrong and far out) or 'error set' (wrong).")
    ] = "filtered",
    gamma: Annotated[float | None, typer.Option(help="ddb-1: far out is a loss > μ + γσ.")] = None,
    network: Network = "conv",
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    seeds: Seeds = 1,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also GroupDRO with the true groups, where known.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Diffusing DeBias: train with a frozen biased classifier's losses, beside vanilla."""
    from debias_core.workspace import stages
    from debias_core.workspace.amplify import ddb_settings, run_ddb

    _check_json(json_file)
    if not 1 <= seeds <= 100:
        raise UserError(f"seeds must be 1 to 100, but is {seeds}.")
    project = _project(workspace, name)
    base = ddb_settings(project.table())
    settings = _set(
        base, recipe=recipe, losses=losses, flags=flags, gamma=gamma,
        seeds=tuple(range(seeds)),
        classifier=_set(
            base.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size
        ),
    )  # fmt: skip
    arms, about = _run(run_ddb(project, settings, device=_device(), oracle=oracle), project)
    names = tuple(dict.fromkeys(a.arm for a in arms))
    result = stages.summary(arms, names)
    _accuracy_table(result, columns={n: recipe if n == "debiased" else n for n in names})
    if groups := about["groups"]:
        console.print(f"{groups['flagged']:,} images are flagged as conflicting.")
        if groups["warning"]:
            console.print(groups["warning"], markup=False)
    _write_json(json_file, {**result, "groups": about["groups"], "settings": about["config"]})


@command.command()
def compare(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"One or more of {', '.join(baseline_settings.BASELINE_METHODS)}."),
    ] = None,
    network: Network = None,
    epochs: Epochs = None,
    seeds: Seeds = 1,
    json_file: JsonFile = None,
) -> None:
    """The field's baselines on a project's own images; resumable, a finished one is read back."""
    from debias_core.workspace.cells import over_seeds, run_compare

    _check_json(json_file)
    if not 1 <= seeds <= 100:
        raise UserError(f"seeds must be 1 to 100, but is {seeds}.")
    base = baseline_settings.CompareConfig()
    settings = baseline_settings.CompareConfig(
        tuple(method or base.methods), tuple(range(seeds)), network or "", epochs or 0
    )
    project = _project(workspace, name)
    cells = _run(run_compare(project, settings, device=_device()), project)
    by_method = [[c for c in cells if c["method"] == m] for m in settings.methods]
    rows = [over_seeds(mine) for mine in by_method if mine]
    _cells_table(rows, "test")
    _write_json(json_file, {"cells": cells, "rows": rows, "settings": cfg.to_json(settings)})


@command.command()
def debias(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    network: Network = "conv",
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    seeds: Seeds = 1,
    synthetic_share: SyntheticShare = None,
    min_fidelity: MinFidelity = None,
    only_accepted: Annotated[
        bool, typer.Option(help="Leave out the images that nobody has accepted in Curate.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train a classifier with and without the synthetic images, at the same budget."""
    from debias_core.workspace import stages

    _check_json(json_file)
    if not 1 <= seeds <= 100:
        raise UserError(f"seeds must be 1 to 100, but is {seeds}.")
    project = _project(workspace, name)
    base = stages.debias_settings(project.table())
    classifier = _set(base.classifier, network=network, epochs=epochs, lr=lr, batch_size=batch_size)
    settings = _set(
        base, classifier=classifier, seeds=tuple(range(seeds)), only_accepted=only_accepted,
        synthetic_share=synthetic_share, min_fidelity=min_fidelity,
    )  # fmt: skip
    arms = _run(stages.run_debias(project, settings, device=_device()), project)
    result = stages.summary(arms)
    _accuracy_table(result)
    console.print(project.import_report().get("split_rule", ""), markup=False)
    _write_json(json_file, {**result, "settings": cfg.to_json(settings)})


@command.command()
def report(
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    json_file: JsonFile = None,
) -> None:
    """Write the self-contained HTML report with maps and heat maps."""
    from debias_core.workspace import stages

    _check_json(json_file)
    project = _project(workspace, name)
    path = _run(stages.run_report(project, device=_device()), project)
    console.print(f"The report is in {path}", markup=False)
    _write_json(json_file, {"report": str(path)})


@command.command()
def export(
    what: Annotated[
        str, typer.Argument(help="synthetic, union, weights, config, or all that there is.")
    ] = "all",
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = DEFAULT_NAME,
    json_file: JsonFile = None,
) -> None:
    """Write what can be taken away: image folders, weights, and the settings that repeat the run."""
    from debias_core.workspace import stages

    _check_json(json_file)
    project = _project(workspace, name)
    paths = _run(stages.run_export(project, what), project)
    for path in paths:
        console.print(str(path), markup=False)
    _write_json(json_file, {"files": [str(path) for path in paths]})


@command.command("repeat")
def repeat_(
    config: Annotated[Path, typer.Argument(help="The config.json of an export.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Name = "repeated",
    source: Annotated[
        Path | None, typer.Option(help="The images, where they are not where they were.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the diffusion model, instead of training it anew."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Run an exported project again from its settings, marks and verdicts, and compare the numbers."""
    from debias_core.workspace.repeat import read_recipe, repeat

    _check_json(json_file)
    project = _project(workspace, name)
    stage = repeat(project, read_recipe(config), source=source, model=model, device=_device())
    result = _run(stage, project)
    console.print(
        "The numbers are the same."
        if result["same"]
        else f"The numbers differ, by {result['largest_difference']:.4f} at most.",
        markup=False,
    )
    _write_json(json_file, result)


# ---- small helpers of the commands -----------------------------------------------------------


def _project(workspace: Path, name: str) -> Any:
    from debias_core.workspace.store import Project

    return Project(workspace, name)


def _device() -> Any:
    from debias_core.pipeline import pick_device

    return pick_device()


def _devices(text: str | None, cluster: str | None) -> tuple[Any, Any]:
    """The devices of this machine, and the cluster or None."""
    from debias_core.pipeline import pick_devices

    if text is not None and cluster is not None:
        raise UserError("Choose --devices of this machine or a --cluster, not both.")
    return pick_devices(text), _cluster(cluster)


def _cluster(text: str | None) -> Any:
    if text is None:
        return None
    from debias_core.cluster import chosen

    return chosen(text)


def _set(config: T, **changes: Any) -> T:
    """The config with those changes that were given."""
    return replace(config, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[type-var]


def _times(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise UserError(f"direct must be falling times, as in 400,200, not '{text}'.")
    return tuple(int(part) for part in text.split(","))


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(v) for v in text.split(","))
    except ValueError:
        raise UserError(
            f"mask must be four numbers left,top,right,bottom, as in 0.1,0.1,0.9,0.9, not '{text}'."
        ) from None
    return left, top, right, bottom


def _plain(text: str) -> str:
    """Text for a rich table, which would read [brackets] as markup."""
    return text.replace("[", r"\[")


def _run(stage: Stage[T], project: Any = None) -> T:
    """Drain a stage behind one progress bar for each of its steps, alone on its project."""
    from debias_core.pipeline import drain
    from debias_core.workspace.store import working

    columns = (
        TextColumn("{task.description:28}"), BarColumn(bar_width=30), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    alone = nullcontext() if project is None else working(project)
    with alone, Bar(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(p: Progress) -> None:
            if p.stage not in tasks:
                tasks[p.stage] = bar.add_task(_plain(p.stage), total=p.total, note="")
            bar.update(tasks[p.stage], completed=p.done, note=_plain(p.note))

        return drain(stage, show)


def _check_json(path: Path | None) -> None:
    """Find out before the work, not after it, that the file can't be written."""
    if path is None:
        return
    folder = path.expanduser().resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"Can't write {path}: give a file in a folder that exists.")


def _write_json(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None and ranks.leads():
        text = json.dumps(data, indent=1, ensure_ascii=False)
        path.expanduser().write_text(text + "\n", encoding="utf-8")
        console.print(f"Every number is in {path}", markup=False)


def _percent(value: dict[str, Any] | None) -> str:
    return mean_and_sd([None] if value is None else value["per_seed"])


def _accuracy_table(
    result: dict[str, Any],
    published: tuple[float, float] | None = None,
    columns: dict[str, str] | None = None,
) -> None:
    columns = columns or {"vanilla": "vanilla", "debiased": "debiased"}
    heads = ["test accuracy, last epoch", *columns.values()]
    table = Table(*heads, *(["paper: vanilla", "paper: DiffInject"] if published else []))
    names = (
        ("all", "unbiased_accuracy"), ("bias-aligned", "aligned_accuracy"),
        ("bias-conflicting", "conflicting_accuracy"), ("worst group", "worst_group_accuracy"),
    )  # fmt: skip
    for label, key in names:
        printed = [f"{100 * p:.2f} %" for p in published or () if key == "unbiased_accuracy"]
        figures = [_percent(result[arm][key]) for arm in columns]
        table.add_row(label, *figures, *printed)
    console.print(table)


def _benchmark_table(result: dict[str, Any]) -> None:
    published = result["published"]
    _accuracy_table(result, published)
    seconds = ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items())
    label, look = result["label_fidelity"], result["look_fidelity"]
    console.print(
        f"{result['dataset']}, {result['method']}, {len(result['seeds'])} seeds at "
        f"{ratio_in_words(result['ratio_percent'])} conflicting, scored on the {result['scored_on']} part.\n"
        f"precision@{result['k']} {_two(result['precision_at_k'])}, average precision "
        f"{_two(result['average_precision'])}\n"
        f"{result['synthetic_count']} synthetic images a seed, "
        f"{result['unet_evaluations_per_image']:.1f} U-Net forward-equivalents each\n"
        f"label fidelity: content's class {_two(label['content'])}, original's "
        f"{_two(label['original'])}, neither {_two(label['neither'])}\n"
        f"look fidelity: nearer to the original's colour {_two(look['look'])}\n"
        f"seconds: {seconds}\n{_energy_line(result['energy'])}",
        markup=False,
        highlight=False,
    )


def _energy_line(energy: dict[str, Any]) -> str:
    kwh = energy["kwh"]
    if kwh["total"] is None:
        return "energy: not measured"
    parts = ", ".join(f"{k} {1000 * v:.2f}" for k, v in kwh.items() if v is not None)
    return f"energy, Wh: {parts}; {energy['grams']:.1f} gCO2eq at {energy['grams_per_kwh']:g} g/kWh"


def _two(value: dict[str, Any] | None) -> str:
    return "unknown" if value is None else f"{value['mean']:.2f}"


def _ended(*_: Any) -> None:
    """What a launcher's signal to end means to one of several processes."""
    raise UserError(
        "The launcher ends this process, since another has ended. Start the same command again: it goes "
        "on from the last checkpoint."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 with one line on standard error for a user's mistake."""
    run: Callable[..., Any] = typer.main.get_command(command)
    if ranks.several():
        signal.signal(signal.SIGTERM, _ended)
    try:
        run(arguments, standalone_mode=False, prog_name="app.py")
    except (UserError, typer.TyperException) as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        if ranks.leads() or ranks.under_way():  # before, all processes make the same mistake
            print("Error: " + " ".join(text.split()), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("Stopped. What was finished is kept.", file=sys.stderr)
        return 130
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"Error: {error.strerror or error}{where}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
