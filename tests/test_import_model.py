"""Diffusion models that others made: read, checked, and as good for injection as ours."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.nn import functional as F

import app
from debias_core.diffusion import foreign, schedule
from debias_core.diffusion.inversion import invert
from debias_core.diffusion.preview import Preview
from debias_core.diffusion.sampling import denoise
from debias_core.diffusion.synthesis import Frame
from debias_core.diffusion.unet import load_model, save_model, weights_digest
from debias_core.jobs import kinds, queue
from debias_core.records import UserError
from debias_core.settings.diffusion import DiffusionConfig, ImportModelConfig, ScheduleConfig
from debias_core.settings.injection import InjectConfig
from debias_core.stages import import_model, model_check
from debias_core.stages.export_weights import unet_files
from debias_core.workspace.project_base import IMPORTED
from tests.conftest import CPU, TINY_UNET
from ui.shown.place import Place
from ui.tabs import bring_model, preview

ASKED = ImportModelConfig()


def lively(module, seed=0):
    """Random weights whose output depends on the input."""
    torch.manual_seed(seed)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.1)
    return module.eval().requires_grad_(False)


@pytest.fixture
def ddpm():
    """A network as google/ddpm-ema-celebahq-256 is, but small."""
    return lively(
        UNet2DModel(
            sample_size=16, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
            norm_num_groups=8,
        )
    )  # fmt: skip


@pytest.fixture
def folder(ddpm, tmp_path):
    """The pipeline of that network, as diffusers saves it."""
    scheduler = DDPMScheduler(beta_start=2e-4, beta_end=0.03)
    DDPMPipeline(ddpm, scheduler).save_pretrained(tmp_path / "ddpm")
    return tmp_path / "ddpm"


def drained(stage):
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value


def brought(project, source, config=ASKED, **more):
    return drained(import_model.run_import_model(project, str(source), config, device=CPU, **more))


# ---- a folder of diffusers ----


def test_a_diffusers_folder_is_the_network_that_diffusers_runs(ddpm, folder):
    net, config = foreign.read_folder(folder, ASKED)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([300])
    difference = (net(x, 300) - ddpm(x, t).sample).abs().max()
    print(f"largest difference {difference:.2g}")
    assert difference < 1e-5 and config.imported
    assert config.schedule == ScheduleConfig(beta_start=2e-4, beta_end=0.03)
    theirs = DDPMScheduler(beta_start=2e-4, beta_end=0.03).alphas_cumprod
    assert torch.allclose(schedule.alpha_bar(config.schedule).float(), theirs, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_every_schedule_is_that_of_diffusers(kind):
    theirs = DDPMScheduler(beta_schedule=kind).alphas_cumprod
    assert torch.allclose(schedule.alpha_bar(ScheduleConfig(kind=kind)).float(), theirs, atol=1e-5)


def test_old_names_of_attention_and_weights_of_torch_s_own_format_are_read(ddpm, folder):
    inside = folder / "unet"
    (inside / "diffusion_pytorch_model.safetensors").unlink()
    older = {new: old for old, new in foreign.OLDER.items()}
    state = {}
    for name, value in ddpm.state_dict().items():
        known = next((new for new in older if f".{new}." in name and "attentions" in name), None)
        state[name.replace(f".{known}.", f".{older[known]}.") if known else name] = value
    torch.save(state, inside / "diffusion_pytorch_model.bin")
    net, _ = foreign.read_folder(folder, ASKED)
    x = torch.randn(1, 3, 16, 16)
    assert torch.allclose(net(x, 5), ddpm(x, torch.tensor([5])).sample, atol=1e-5)


def test_it_injects_with_the_round_trip_of_the_gate_at_another_side(project, folder, table):
    known = brought(project, folder)
    assert known["model_size"] == 16 and known["image_size"] == 8 and known["bottleneck"] == 8
    assert project.imported_model() == {k: v for k, v in known.items() if k != "source"}
    net, config = load_model(project.folder("diffusion"), CPU)
    train = table.where("train")
    inject = InjectConfig(steps=10, inversion="fixed_point:5", t_boost=0)
    pairs = Preview(net, config, train.pixels[:4], train.pixels[4:8], inject, device=CPU)
    plain = pairs.render(gamma=0.0, t_edit=200)
    trip = model_check._psnr(plain, train.pixels[:4])
    blend = pairs.render(gamma=0.9, t_edit=200)
    print(f"round trip {trip:.1f} dB, strength {model_check._rms(blend, plain):.3f}")
    assert trip >= model_check.ROUND_TRIP and (blend != plain).any()


def test_the_whole_run_takes_it_on_any_number_of_workers(project, folder, inline, small_grain):
    from debias_core.compute.team import Cluster
    from debias_core.stages.generate import run_generate

    brought(project, folder)
    config = InjectConfig(method="crossinject", contents=6, count=8, steps=4, batch_size=4)
    here = drained(run_generate(project, config, device=CPU, with_flags=False)).pixels
    shutil.rmtree(project.root / "synthetic")
    there = drained(
        run_generate(
            project, config, device=CPU, with_flags=False, cluster=Cluster("inline", workers=2)
        )
    ).pixels
    assert here.shape == (8, 8, 8, 3) and np.array_equal(here, there) and inline == [2]


def test_a_frame_scales_images_that_fit_no_border():
    rows = np.linspace(40, 200, 8)
    smooth = np.repeat((rows[:, None] + rows)[None, :, :, None] / 2, 3, -1).astype(np.uint8)
    frame = Frame(8, 32)
    assert frame.scaled and frame.side == 32 and frame.put(smooth).shape == (1, 3, 32, 32)
    assert np.abs(frame.take(frame.put(smooth)).astype(int) - smooth).max() <= 6
    assert not Frame(28, 32).scaled and Frame(28, 32).side == 28


# ---- ADM and P2 ----


def adm_weights(base=32, mult=(1, 2), blocks=1, attention=(1,), seed=0, resnet_updown=True):
    """Random weights by guided-diffusion's names."""
    torch.manual_seed(seed)
    state = {}

    def layer(name, *shape):
        state[f"{name}.weight"] = torch.randn(shape) * 0.5 / max(1, np.prod(shape[1:])) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0]) * 0.1

    def res(name, c_in, c_out):
        layer(f"{name}.in_layers.0", c_in)
        layer(f"{name}.in_layers.2", c_out, c_in, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * c_out, 4 * base)
        layer(f"{name}.out_layers.0", c_out)
        layer(f"{name}.out_layers.3", c_out, c_out, 3, 3)
        if c_in != c_out:
            layer(f"{name}.skip_connection", c_out, c_in, 1, 1)

    def look(name, c):
        layer(f"{name}.norm", c)
        layer(f"{name}.qkv", 3 * c, c, 1)
        layer(f"{name}.proj_out", c, c, 1)

    layer("time_embed.0", 4 * base, base)
    layer("time_embed.2", 4 * base, 4 * base)
    layer("input_blocks.0.0", base, 3, 3, 3)
    skips, c, n = [base], base, 1
    for level, m in enumerate(mult):
        for _ in range(blocks):
            res(f"input_blocks.{n}.0", c, m * base)
            c = m * base
            if level in attention:
                look(f"input_blocks.{n}.1", c)
            skips.append(c)
            n += 1
        if level < len(mult) - 1:
            if resnet_updown:
                res(f"input_blocks.{n}.0", c, c)
            else:
                layer(f"input_blocks.{n}.0.op", c, c, 3, 3)
            skips.append(c)
            n += 1
    res("middle_block.0", c, c)
    look("middle_block.1", c)
    res("middle_block.2", c, c)
    n = 0
    for level, m in reversed(list(enumerate(mult))):
        for i in range(blocks + 1):
            res(f"output_blocks.{n}.0", c + skips.pop(), m * base)
            c = m * base
            if level in attention:
                look(f"output_blocks.{n}.1", c)
            if level and i == blocks:
                last = f"output_blocks.{n}.{1 + (level in attention)}"
                res(last, c, c) if resnet_updown else layer(f"{last}.conv", c, c, 3, 3)
            n += 1
    layer("out.0", c)
    layer("out.2", 6, c, 3, 3)
    return state


def adm_forward(w, x, t, head):
    """A plain reading of ADM's forward, straight from the names."""
    base = w["time_embed.0.weight"].shape[1]
    freqs = torch.exp(-np.log(10000.0) * torch.arange(base // 2) / (base // 2))
    angles = t * freqs
    emb = torch.cat([angles.cos(), angles.sin()])[None]
    emb = F.linear(emb, w["time_embed.0.weight"], w["time_embed.0.bias"])
    emb = F.linear(F.silu(emb), w["time_embed.2.weight"], w["time_embed.2.bias"])

    def p(name):
        return w[f"{name}.weight"], w[f"{name}.bias"]

    def norm(name, y):
        return F.group_norm(y, 32, *p(name), eps=1e-5)

    def res(name, y, change=lambda z: z):
        h = change(F.silu(norm(f"{name}.in_layers.0", y)))
        h = F.conv2d(h, *p(f"{name}.in_layers.2"), padding=1)
        scale, shift = F.linear(F.silu(emb), *p(f"{name}.emb_layers.1"))[..., None, None].chunk(
            2, 1
        )
        h = norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        h = F.conv2d(F.silu(h), *p(f"{name}.out_layers.3"), padding=1)
        y = change(y)
        if f"{name}.skip_connection.weight" in w:
            y = F.conv2d(y, *p(f"{name}.skip_connection"))
        return y + h

    def look(name, y):
        b, c, height, width = y.shape
        qkv = F.conv1d(norm(f"{name}.norm", y).flatten(2), *p(f"{name}.qkv"))
        q, k, v = qkv.reshape(b * c // head, 3 * head, -1).split(head, 1)
        weight = torch.einsum("bct,bcs->bts", q, k).div(head**0.5).softmax(-1)
        out = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        return y + F.conv1d(out, *p(f"{name}.proj_out")).reshape(b, c, height, width)

    def half(z):
        return F.avg_pool2d(z, 2)

    def double(z):
        return F.interpolate(z, scale_factor=2.0)

    y = F.conv2d(x, *p("input_blocks.0.0"), padding=1)
    skips, n = [y], 1
    outs = {k.split(".")[1] for k in w if k.startswith("output_blocks.")}
    downs = {1 + i for i in range(1, len(outs) - 1, 2)}  # one residual block a level here
    while f"input_blocks.{n}.0.in_layers.0.weight" in w or f"input_blocks.{n}.0.op.weight" in w:
        if f"input_blocks.{n}.0.op.weight" in w:
            y = F.conv2d(y, *p(f"input_blocks.{n}.0.op"), stride=2, padding=1)
        else:
            y = res(f"input_blocks.{n}.0", y, half if n in downs else lambda z: z)
        if f"input_blocks.{n}.1.qkv.weight" in w:
            y = look(f"input_blocks.{n}.1", y)
        skips.append(y)
        n += 1
    y = res("middle_block.2", look("middle_block.1", res("middle_block.0", y)))
    for i in range(len(outs)):
        y = res(f"output_blocks.{i}.0", torch.cat([y, skips.pop()], 1))
        for part in (f"output_blocks.{i}.1", f"output_blocks.{i}.2"):
            if f"{part}.qkv.weight" in w:
                y = look(part, y)
            elif f"{part}.conv.weight" in w:
                y = F.conv2d(double(y), *p(f"{part}.conv"), padding=1)
            elif f"{part}.in_layers.0.weight" in w:
                y = res(part, y, double)
    return F.conv2d(F.silu(norm("out.0", y)), *p("out.2"), padding=1)[:, :3]


@pytest.mark.parametrize("resnet_updown", [True, False])
def test_an_adm_checkpoint_computes_what_a_plain_reading_of_it_does(tmp_path, resnet_updown):
    weights = adm_weights(mult=(1, 1, 2), attention=(1, 2), resnet_updown=resnet_updown)
    torch.save(weights, tmp_path / "adm.pt")
    asked = ImportModelConfig(model_size=16, head_dim=8)
    net, config = foreign.read_checkpoint(tmp_path / "adm.pt", asked)
    x = torch.randn(2, 3, 16, 16)
    plain = adm_forward(weights, x, 421, 8)
    difference = (net(x, 421) - plain).abs().max()
    print(f"largest difference {difference:.2g} of {plain.abs().max():.2g}")
    assert difference < 1e-4 and config.schedule == ScheduleConfig()
    # The variance is gone, and q, k and v are taken by head: another head is another network.
    assert net.unet.conv_out.weight.shape[0] == 3
    other, _ = foreign.read_checkpoint(tmp_path / "adm.pt", replace(asked, head_dim=16))
    assert (other(x, 421) - plain).abs().max() > 1e-2


@pytest.mark.parametrize(("mult", "size"), list(zip([(1, 2, 3, 4), (1, 1, 2, 2, 4, 4)], (64, 256), strict=True)))  # fmt: skip
def test_the_official_shapes_say_the_side_of_their_images(mult, size):
    library, weights = foreign.from_adm(adm_weights(mult=mult), image_size=0, head=32)
    assert library["sample_size"] == size
    assert "mid_block.attentions.0.to_q.weight" in weights


def test_two_residual_blocks_a_level_are_told_from_more_levels():
    library, weights = foreign.from_adm(
        adm_weights(mult=(1, 1, 1, 1), blocks=2, attention=()), image_size=32, head=32
    )
    assert library["layers_per_block"] == 2 and len(library["block_out_channels"]) == 4
    config = ScheduleConfig()
    net, _ = foreign.network(foreign.unet_library(library), weights, config)
    assert net.config.bottleneck == 4


def test_an_adm_checkpoint_injects_with_the_round_trip_of_the_gate(project, tmp_path):
    weights = adm_weights()
    weights["out.2.weight"] *= 0.05  # as a trained net, no wild one: else no fixed point is reached
    torch.save(weights, tmp_path / "p2.pt")
    asked = ImportModelConfig(model_size=8, head_dim=32)
    brought(project, tmp_path / "p2.pt", asked)
    net, config = load_model(project.folder("diffusion"), CPU)
    a_bar = schedule.alpha_bar(config.schedule)
    x0 = Frame(8, 8).put(project.table().pixels[:4])
    back = denoise(net, a_bar, invert(net, a_bar, x0, steps=10, fixed_point=5), steps=10)
    trip = float(-10 * torch.log10(((back - x0) / 2).square().mean()))
    print(f"round trip {trip:.1f} dB")
    assert trip >= model_check.ROUND_TRIP


def test_a_class_conditional_or_unknown_checkpoint_is_told(tmp_path):
    weights = adm_weights()
    for change, says in (
        ({"label_emb.weight": torch.zeros(10, 128)}, "class-conditional"),
        ({"input_blocks.1.0.extra.weight": torch.zeros(1)}, "has not"),
        ({"input_blocks.1.0.in_layers.2.weight": torch.zeros(32, 32, 5, 5)}, "has the shape"),
    ):
        torch.save({**weights, **change}, tmp_path / "x.pt")
        with pytest.raises(UserError, match=says):
            foreign.read_checkpoint(tmp_path / "x.pt", ImportModelConfig(model_size=8, head_dim=32))
    torch.save(weights, tmp_path / "x.pt")
    with pytest.raises(UserError, match="--model-size"):
        foreign.read_checkpoint(tmp_path / "x.pt", ImportModelConfig(head_dim=32))
    with pytest.raises(UserError, match="--head-dim"):
        foreign.read_checkpoint(tmp_path / "x.pt", ImportModelConfig(model_size=8, head_dim=24))


# ---- our own, and what a project does with them ----


def test_our_own_models_come_back_from_a_folder_and_from_an_export(project, tiny_net, tmp_path):
    config = DiffusionConfig(unet=TINY_UNET, swap=0.5)
    save_model(tiny_net, config, tmp_path / "own", made_by="us")
    (tmp_path / "zip" / "diffusion").mkdir(parents=True)
    for name, data in unet_files(tmp_path / "own").items():
        (tmp_path / "zip" / "diffusion" / name).write_bytes(data)
    x = torch.randn(1, 3, 8, 8)
    wanted = load_model(tmp_path / "own", CPU)[0](x, 7)
    for source in ("own", "zip"):
        brought(project, tmp_path / source, replace=True)
        net, there = load_model(project.folder("diffusion"), CPU)
        assert torch.equal(net(x, 7), wanted) and there == replace(config, imported=True)


def test_an_imported_model_is_exported_as_diffusers_has_it(project, folder, ddpm, tmp_path):
    brought(project, folder)
    out = tmp_path / "out"
    out.mkdir()
    for name, data in unet_files(project.folder("diffusion")).items():
        (out / name).write_bytes(data)
    x = torch.randn(1, 3, 16, 16)
    theirs = UNet2DModel.from_pretrained(out)
    assert torch.allclose(theirs(x, 9).sample, ddpm(x, 9).sample, atol=1e-6)
    digest = weights_digest(project.folder("diffusion"))
    brought(project, out, replace=True)
    assert weights_digest(project.folder("diffusion")) == digest


def test_a_model_that_is_there_is_replaced_only_on_request(project, folder, tiny_net):
    save_model(tiny_net, DiffusionConfig(unet=TINY_UNET), project.folder("diffusion"), made_by="us")
    with pytest.raises(UserError, match="--replace"):
        brought(project, folder)
    assert project.imported_model() is None
    brought(project, folder, replace=True)
    assert project.imported_model() is not None


def test_the_command_line_and_the_queue_bring_it_in(project, folder, capsys):
    where = ["--workspace", str(project.workspace), "--name", project.name]
    assert app.main(["import-model", str(folder), *where]) == 0
    assert "scaled" in capsys.readouterr().out
    job = queue.submit(
        project.db, project.name, "import_model",
        {"source": str(folder), "replace": True, "config": {}},
    )  # fmt: skip
    kind = kinds.kind_of("import_model")
    args = {"source": str(folder), "replace": True, "config": {}}
    assert drained(kind.stage(project, args, kinds.Where(CPU)))["source"] == "ddpm"
    assert job is not None


def test_the_page_brings_a_model_in_from_allowed_folders_alone(project, folder, tmp_path):
    place = Place(project.workspace, (tmp_path,))
    bring_model.submit(place, project.name, str(folder), False, ASKED)
    (job,) = queue.of_project(project.db, project.name)
    assert job.kind == "import_model" and job.args["source"] == str(folder)
    bring_model.submit(place, project.name, "google/ddpm-cifar10-32", False, ASKED)
    for source, says in (("", "where the model is"), ("/etc", "--root")):
        with pytest.raises(UserError, match=says):
            bring_model.submit(place, project.name, source, False, ASKED)
    assert bring_model.refresh(place, project.name)[1] == ""
    brought(project, folder)
    assert "h has 8 × 8 cells" in bring_model.refresh(place, project.name)[1]
    with pytest.raises(UserError, match="classroom"):
        bring_model.submit(replace(place, classroom=True), project.name, "a/b", False, ASKED)


def test_a_slow_model_s_preview_waits_to_be_asked_for(project, folder):
    brought(project, folder)
    known = project.imported_model()
    assert preview._slow(project, InjectConfig()) == ""
    path = project.folder("diffusion") / IMPORTED
    path.write_text(json.dumps({**known, "seconds_per_evaluation": 9.0}))
    assert "56 minutes" in preview._slow(project, InjectConfig(steps=25))


# ---- hostile sources ----


class Harm:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_with_code_is_not_run(project, tmp_path, folder, capsys):
    for harm in (tmp_path / "bad.pt", folder / "unet" / "diffusion_pytorch_model.bin"):
        harm.write_bytes(pickle.dumps({"time_embed.0.weight": Harm()}))
    with pytest.raises(UserError, match="not run"):
        brought(project, tmp_path / "bad.pt")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="not run"):
        brought(project, folder)
    assert capsys.readouterr().out == "" and not project.has("diffusion")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sample_size": 10**9}, "sample_size"), ({"block_out_channels": [10**9, 32]}, "block_out_channels"),
        ({"block_out_channels": [32] * 10**4}, "block_out_channels"), ({"layers_per_block": 10**6}, "layers_per_block"),
        ({"block_out_channels": [8192, 8192], "norm_num_groups": 32, "layers_per_block": 16}, "parameters"),
        ({"block_out_channels": [24, 32]}, "fit"), ({"block_out_channels": [20, 30]}, "built"),
        ({"down_block_types": ["os.system", "DownBlock2D"]}, "down_block_types"), ({"sample_size": "16"}, "sample_size"),
        ({"class_embed_type": "timestep"}, "class_embed_type"), ({"_class_name": "Other"}, "not a UNet2DModel"),
        ({"norm_eps": "x"}, "norm_eps"), ({"act_fn": "evil"}, "built"),
    ],
)  # fmt: skip
def test_a_configuration_that_can_t_be_is_one_sentence(folder, changes, says):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=says) as told:
        foreign.read_folder(folder, ASKED)
    assert "\n" not in str(told.value) and len(str(told.value)) < 600


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prediction_type": "v_prediction"}, "epsilon"), ({"num_train_timesteps": 4000}, "4000"),
        ({"beta_schedule": "sigmoid"}, "sigmoid"), ({"trained_betas": [0.1]}, "schedule"),
        ({"beta_start": 2.0}, "beta_start"), ({"beta_end": None}, "beta_end"),
    ],
)  # fmt: skip
def test_a_schedule_that_injection_can_t_follow_is_told(folder, changes, says):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=says):
        foreign.read_folder(folder, ASKED)


def test_what_is_missing_or_broken_is_told(project, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.txt").write_text("no")
    (tmp_path / "no.pt").write_bytes(b"no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "vast.pt")
    for source, says in (
        ("empty", "config.json"), ("no.txt", "no checkpoint"), ("no.pt", "damaged"), ("list.pt", "list of tensors"),
        ("vast.pt", "larger than the file"), ("none/at/all", "no folder"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            brought(project, tmp_path / source)
    with pytest.raises(UserError, match="hf download"):
        brought(project, "google/ddpm-none-such")
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(UserError, match="--schedule linear"):
        brought(project, folder)
    brought(project, folder, ImportModelConfig(schedule="squaredcos_cap_v2"))
    assert load_model(project.folder("diffusion"), CPU)[1].schedule.kind == "squaredcos_cap_v2"
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(UserError, match="save_pretrained"):
        brought(project, folder, replace=True)
    (folder / "unet" / "config.json").write_text("{" * 10**5)
    with pytest.raises(UserError, match="JSON"):
        brought(project, folder, replace=True)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(UserError):
        brought(project, folder, replace=True)
