"""The options of more than one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debias_core.compute import ranks


def _workspace(context: typer.Context, path: Path) -> Path:
    """The folder of the projects; of several processes only the first writes into it."""
    path = path.expanduser()
    if not ranks.several() or context.parent is None:  # the page's, which no stage looks at
        return path
    from debias_core.workspace.rank_copy import private_copy

    ranks.wait()
    mine = path if ranks.leads() else private_copy(path)
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
RootPath = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="Path under which a proxy serves the page, such as /studio; the proxy takes it off.",
    ),
]
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
Seed = Annotated[int, typer.Option(min=0, help="Seed.")]
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
        "inversion and --steps (needs a model trained with swaps); off: with these, where the data set's "
        "settings predict directly."
    ),
]
Precision = Annotated[
    str | None, typer.Option(help="float32, or bf16 inside the network (auto: where it is faster).")
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
