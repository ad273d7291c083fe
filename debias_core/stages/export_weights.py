"""A project's networks with what it takes to load them: under the libraries' own key names where they fit.

    our file                              taken away as
    EpsilonNet      model.safetensors     diffusers' UNet2DModel: config.json diffusion_pytorch_model.safetensors
                    config.json           model.json: our settings, and who made it
    ResNet-18       model.safetensors     torchvision's `resnet18`: model.safetensors

A U-Net of patches has no place in UNet2DModel (pixels are folded before its first layer), and the MLP and
the small convolutional net are nobody else's: these stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from debias_core.diffusion.unet import EpsilonNet, model_config
from debias_core.pipeline import ARMS
from debias_core.settings.diffusion import UNetConfig
from debias_core.stages.export_images import Files, utf8
from debias_core.workspace.project import Project

EXAMPLE = '''\
"""Name the class of an image: PYTHONPATH=<the app's folder> python load_example.py IMAGE"""
import json, sys, torch
from pathlib import Path
from debias_core.classifier.networks import load_classifier
from debias_core.data.images import decode, to_float
folder = Path(__file__).resolve().parent / "debiased"  # or OTHERS
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
image = decode(Path(sys.argv[1]).read_bytes(), about["image_size"])  # the centre square, RGB
logits = load_classifier(folder, torch.device("cpu"))(to_float(image[None]))  # [1, classes]
print(about["class_names"][int(logits.argmax())])
'''

TORCHVISION_EXAMPLE = '''\
"""Name the class of an image with torchvision alone: python load_example.py IMAGE"""
import json, sys, torch, torchvision
from pathlib import Path
from PIL import Image, ImageOps
from safetensors.torch import load_file
folder = Path(__file__).resolve().parent / "debiased"  # or OTHERS
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
names, size = about["class_names"], about["image_size"]
net = torchvision.models.resnet18(num_classes=len(names))
if size < 64:  # small images: another first layer, and no pooling behind it
    net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
net.load_state_dict(load_file(folder / "model.safetensors"))
image = ImageOps.fit(Image.open(sys.argv[1]).convert("RGB"), (size, size))  # the centre square
x = torchvision.transforms.functional.to_tensor(image)[None] * 2 - 1  # RGB in [-1, 1]
print(names[int(net.eval()(x).argmax())])
'''

README = """\
Weights of the project {name}, data set {data_id}, images of {size} x {size} pixels.

{f_b}
vanilla/    trained on the originals alone, seed {seed}
debiased/   trained on the originals and the synthetic images, seed {seed}
{more}
A classifier's folder holds model.safetensors (the weights) and model.json (network, image size, class
names). The images go in as RGB in [-1, 1], and out come logits in the order of the classes.
{torchvision}
To try it, {needs}:

    {path}python load_example.py IMAGE

Classes:
{classes}
"""
F_B = "f_B/        the bias classifier of the audit: it has learned the shortcut, and is there to find it"
NO_F_B = "(no f_B: the audit went by predictions that were brought)"
NEEDS_APP = """\
with the requirements of Debias Studio installed, and its folder (the one that holds
app.py) in the place of APP"""
BY_TORCHVISION = """\
The weights in {folders} have torchvision's own key names: `torchvision.models.resnet18` loads them
(images below 64 pixels want another first layer, which load_example.py shows).
"""
DDB = {
    "amplifier": "amplifier/  the bias amplifier of Diffusing DeBias, frozen\n",
    "ddb-1": "ddb-1/      trained by its recipe I: pseudo-groups and GroupDRO\n",
    "ddb-2": "ddb-2/      trained by its recipe II: a weight for each image\n",
}
DIFFUSION = """\
diffusion/  the diffusion model that made the synthetic images (bf16);
            `python app.py repeat config.json --model diffusion` takes it.
"""
FITS = """\
            `diffusers.UNet2DModel.from_pretrained("diffusion")` loads it. It predicts {prediction}, for
            images in [-1, 1], with the noise of `DDIMScheduler(num_train_timesteps={steps},
            beta_start={start}, beta_end={end}, clip_sample=False)`; our settings are in model.json.
"""
FITS_NOT = """\
            It takes squares of {patch} x {patch} pixels as one, which diffusers' UNet2DModel can't: its layout
            is our own, and diffusers does not load it.
"""


def weight_files(project: Project) -> Files:
    """The classifiers, those of DDB, the project's own diffusion model, and how to load them."""
    seed = project.manifest("debias")["arms"][0]["seed"]
    project.manifest("audit")
    folders = {"f_B": project.folder("audit")} if project.has_bias_net else {}
    folders |= {arm: project.folder("debias") / arm for arm in ARMS}
    if project.has("amplify"):
        folders["amplifier"] = project.folder("amplify")
    if project.has("ddb"):
        folders[project.manifest("ddb")["config"]["recipe"]] = project.folder("ddb") / "debiased"
    about = {name: (folder / "model.json").read_bytes() for name, folder in folders.items()}
    networks = {name: json.loads(text)["network"] for name, text in about.items()}
    diffusion = unet_files(project.folder("diffusion")) if project.has("diffusion") else {}
    readme, example = _readme(project, networks, seed), _example(networks)

    def files() -> Iterator[tuple[str, bytes]]:
        yield "README.txt", utf8(readme)
        yield "load_example.py", example.encode()
        for name, folder in folders.items():
            yield f"{name}/model.safetensors", classifier_weights(folder, networks[name])
            yield f"{name}/model.json", about[name]
        for name, data in diffusion.items():
            yield f"diffusion/{name}", data

    return 2 + 2 * len(folders) + len(diffusion), files()


def _example(networks: dict[str, str]) -> str:
    """How the debiased net is loaded, and those that are loaded in the same way."""
    alone = networks["debiased"] in TORCHVISION
    same = [name for name in networks if (networks[name] in TORCHVISION) == alone]
    others = ", or ".join(f'"{name}"' for name in reversed(same) if name != "debiased")
    return (TORCHVISION_EXAMPLE if alone else EXAMPLE).replace("OTHERS", others)


def _readme(project: Project, networks: dict[str, str], seed: int) -> str:
    """What lies in the zip, and how each network of it is loaded."""
    table = project.table()
    theirs = [f"{name}/" for name, network in networks.items() if network in TORCHVISION]
    alone = networks["debiased"] in TORCHVISION
    names = (json.dumps(name, ensure_ascii=False) for name in table.class_names)
    more = [text for name, text in DDB.items() if name in networks]
    if project.has("diffusion"):
        more.append(DIFFUSION + _diffusion_in_words(project))
    return README.format(
        name=project.name,
        data_id=table.data_id,
        size=table.image_size,
        seed=seed,
        more="".join(more),
        f_b=F_B if project.has_bias_net else NO_F_B,
        torchvision=BY_TORCHVISION.format(folders=", ".join(theirs)) if theirs else "",
        needs="with torchvision and safetensors installed" if alone else NEEDS_APP,
        path="" if alone else "PYTHONPATH=APP ",
        classes="\n".join(f"    {i}  {name}" for i, name in enumerate(names)),
    )


def _diffusion_in_words(project: Project) -> str:
    config = model_config(project.folder("diffusion"))
    if not fits_diffusers(config.unet):
        return FITS_NOT.format(patch=config.unet.patch)
    schedule = config.schedule
    return FITS.format(
        prediction="the noise" if config.unet.prediction == "epsilon" else "v",
        steps=schedule.train_steps,
        start=schedule.beta_start,
        end=schedule.beta_end,
    )


UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"  # as diffusers calls the file
LABEL, CLASSES = "label.weight", "class_embedding.weight"  # ours, and diffusers'
TORCHVISION = ("resnet18",)


def fits_diffusers(config: UNetConfig) -> bool:
    """Whether `UNet2DModel` alone computes what the network does."""
    return config.patch == 1


def unet_files(folder: Path) -> dict[str, bytes]:
    """The files of a model that `save_model` wrote, as `UNet2DModel.from_pretrained` reads them.

    A conditional network's classes are `class_labels`, the last of which is "no class". One that does not
    fit (`fits_diffusers`) keeps the layout that it has.
    """
    config = model_config(folder).unet
    if not fits_diffusers(config):
        return {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    with torch.device("meta"):  # for its shape alone
        about = json.loads(EpsilonNet(config).unet.to_json_string())
    about["num_class_embeds"] = config.classes + 1 if config.classes else None
    weights = load_file(folder / "model.safetensors")
    return {
        "config.json": json.dumps(about, indent=2).encode(),
        UNET_WEIGHTS: save({_diffusers_key(k): v for k, v in weights.items()}, {"format": "pt"}),
        "model.json": (folder / "config.json").read_bytes(),
    }


def bring_model(exported: Path, folder: Path) -> None:
    """Write the model of an exported folder, of today's layout or an earlier one, as `save_model` does.

    The same weights are the same file, and so the same model by `weights_digest`.
    """
    about = exported / "config.json"
    if (exported / UNET_WEIGHTS).is_file():
        about = exported / "model.json"
        weights = load_file(exported / UNET_WEIGHTS)
        save_file({_our_key(k): v for k, v in weights.items()}, folder / "model.safetensors")
    else:
        weights_of_old = (exported / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights_of_old)
    (folder / "config.json").write_bytes(about.read_bytes())  # the one that means done comes last


def classifier_weights(folder: Path, network: str) -> bytes:
    """The weights of a classifier that `save_classifier` wrote: torchvision's key names where it is its net."""
    path = folder / "model.safetensors"
    if network not in TORCHVISION:
        return path.read_bytes()
    return save(torchvision_names(load_file(path)), {"format": "pt"})


def torchvision_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A `Classifier`'s weights by the names of torchvision's ResNets: its head is their `fc`."""
    renamed = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        renamed[f"fc.{rest}" if part == "head" else rest] = value
    return renamed


def _diffusers_key(name: str) -> str:
    return CLASSES if name == LABEL else name.removeprefix("unet.")


def _our_key(name: str) -> str:
    return LABEL if name == CLASSES else f"unet.{name}"
