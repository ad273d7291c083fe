"""Exports: what a person takes away comes back, can be trusted, and repeats to the same numbers."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load

from debias_core.classifier.networks import build_classifier, save_classifier
from debias_core.classifier.scoring import score
from debias_core.data.importing.importers import import_images
from debias_core.data.making.shipped import SHIPPED
from debias_core.diffusion.synthesis import settled
from debias_core.diffusion.unet import (
    EpsilonNet,
    load_library,
    load_model,
    save_model,
    weights_digest,
)
from debias_core.pipeline import drain
from debias_core.records import StopAsked, UserError
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import exports, generate, importing, models
from debias_core.stages.export_images import folder_names
from debias_core.stages.export_weights import bring_model, unet_files
from debias_core.stages.exports import export
from debias_core.stages.repeat import repeat
from debias_core.stages.repeat_check import check, read_config
from debias_core.workspace import judgements
from debias_core.workspace.project import Project
from tests.conftest import CPU, TINY_UNET

ROOT = Path(exports.__file__).parents[2]
NAMES = ("../x", "A", "a")  # as sorted, which is the order of an import's classes
HOSTILE = ("../x", "CON", "a/b", "A", "a", "<script>alert(1)</script>", "..", "", "\x00\n", "é", "ｅ",
           "nul.", "x" * 300, "C:\\x", "${x}", "日本", "train", "metadata.jsonl")  # fmt: skip
MLP = ClassifierConfig(network="mlp", epochs=3, batch_size=16)
AUDIT = AuditConfig(classifier=replace(MLP, loss="gce"), top_k=6)
INJECT = InjectConfig(count=8, steps=4, t_edit=300, batch_size=4, mask=(0.0, 0.0, 1.0, 0.5))
DEBIAS = DebiasConfig(classifier=MLP, seeds=(0, 1))
DIFFUSION = DiffusionConfig(unet=TINY_UNET, steps=6, batch_size=4, warmup=2)


def write_source(table, folder):
    """The table as files: a CSV beside a folder of PNGs, with hostile class names."""
    folder.mkdir()
    with (folder / "list.csv").open("w", newline="") as handle:
        lines = csv.writer(handle)
        lines.writerow(["path", "label", "bias", "split"])
        for i, id_ in enumerate(table.ids):
            Image.fromarray(table.pixels[i]).save(folder / f"{id_}.png")
            split = "valid" if i in (7, 8, 9) else table.split[i]
            label = (table.y[i] + (48 <= i < 52)) % 3  # else everything would be right at once
            bias = table.bias_names[table.bias[i]]
            lines.writerow([f"{id_}.png", NAMES[label], bias, split])
    return folder / "list.csv"


def build(workspace, source, net):
    """A project up to its training, with a diffusion model of its own, marks and verdicts."""
    p = Project(workspace, "first")
    drain(importing.import_data(p, source, size=8, limit=None, seed=0, replace=False))
    save_model(net, DIFFUSION, p.folder("diffusion"), made_by="a test")
    drain(audit_stage.run_audit(p, AUDIT, device=CPU))
    top = p.audit().top_k.ids.tolist()
    judge(p, p.data_id(), {top[0]: "junk", top[1]: "label", top[2]: "conflict"}, judgements.MARKS)
    drain(generate.run_generate(p, INJECT, device=CPU))
    said = {"0": "accept", "1": "reject", "2": "skip", "5": "reject"}
    judge(p, p.set_id(), said, judgements.JUDGEMENTS)
    drain(debias_stage.run_debias(p, DEBIAS, device=CPU))


@pytest.fixture
def project(table, tiny_net, tmp_path, tmp_path_factory):
    """A copy of that project, and of the images that it was imported from."""
    first = tmp_path_factory.getbasetemp() / "exports"
    if not first.exists():
        first.mkdir()
        build(first / "ws", write_source(table, first / "images"), tiny_net)
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    p = Project(tmp_path / "ws", "first")
    p.register({**p.source(), "path": str(tmp_path / "images" / "list.csv")})
    return p


def judge(project, set_id, said, allowed):
    decisions = [judgements.Judgement(f"{set_id}-{i}-{v}", i, v) for i, v in said.items()]
    judgements.record(project.db, project.name, set_id, decisions, allowed)


def taken(project, what):
    """The export as {name: bytes}, after checks that hold for every zip."""
    (path,) = drain(export(project, what))
    assert path == project.export_file(what)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len({unicodedata.normalize("NFKC", n).casefold() for n in names}) == len(names)
        return {n: archive.read(n) for n in names}


def lines(data):
    return [json.loads(line) for line in data.decode().splitlines()]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def config_of(project):
    drain(export(project, "config"))
    return read_config(project.export_file("config"))


def repeated(project, config, name="again", **options):
    options = {"source": None, "device": CPU, "model": project.folder("diffusion"), **options}
    fresh = Project(project.workspace.parent / "other", name)
    return fresh, drain(repeat(fresh, config, **options))


# ---- image folders ----


def test_folders_are_safe_whatever_the_classes_are_called():
    folders = folder_names(HOSTILE)
    for folder in folders:
        assert folder == folder.lower() and folder.isascii() and folder[:2].isdigit()
        assert set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(folder) < 50
    assert len(set(folders)) == len(HOSTILE) and list(folders) == sorted(folders)
    assert folders[:5] == ("00-x", "01-con", "02-a-b", "03-a", "04-a")


def test_the_synthetic_set_is_an_image_folder_with_all_that_is_known(project):
    files = taken(project, "synthetic")
    rows = lines(files.pop("metadata.jsonl"))
    made = project.synthetic()
    assert [r["file_name"] for r in rows] == list(files) and len(rows) == 8
    for i, (row, origin) in enumerate(zip(rows, made.origins, strict=True)):
        assert np.array_equal(pixels(files[row["file_name"]]), made.pixels[i])
        assert row["label"] == NAMES[origin.label] and row["item"] == row["pair"] == i
        assert (row["content_id"], row["original_id"]) == (origin.content_id, origin.original_id)
        assert (row["gamma"], row["t_edit"], row["t_boost"], row["steps"]) == (0.9, 300, 200, 4)
        assert (row["method"], row["inversion"], row["seed"]) == ("diffinject", "reference", 0)
        assert row["mask"] == [0.0, 0.0, 1.0, 0.5] and row["set"] == project.set_id()
        assert (row["model"], row["made_by"]) == (models.model_id(project), "a test")
        assert 0 <= row["fidelity"] <= 1 and isinstance(row["flags"], list)
    said = [r["verdict"] for r in rows]
    assert said == ["accept", "reject", "skip", None, None, "reject", None, None]
    assert {r["file_name"].split("/")[0] for r in rows} <= {"0-x", "1-a", "2-a"}


def test_pngs_lie_in_the_zip_as_they_are(project):
    drain(export(project, "union"))
    with zipfile.ZipFile(project.export_file("union")) as archive:
        stored = {i.filename[-4:]: i.compress_type for i in archive.infolist()}
    assert stored == {".png": zipfile.ZIP_STORED, "sonl": zipfile.ZIP_DEFLATED}


def test_the_same_content_is_the_same_file(project):
    drain(export(project, "union"))
    before = project.export_file("union").read_bytes()
    drain(export(project, "union"))
    assert project.export_file("union").read_bytes() == before


def test_our_own_importer_reads_the_union_back(project, tmp_path):
    files = taken(project, "union")
    rows = {
        f"{split}/{row['file_name']}": (split, row)
        for split in ("train", "valid", "test")
        for row in lines(files[f"{split}/metadata.jsonl"])
    }
    source = project.export_file("union")
    back, report = drain(import_images(source, tmp_path / "back", size=8))
    table, made = project.table(), project.synthetic()
    assert sorted(back.ids.tolist()) == sorted(rows) and len(back) == 60 + 6
    assert [r.name.split("/")[1] for r in report.refused] == ["metadata.jsonl"] * 3
    seen = set()
    for i, id_ in enumerate(back.ids):
        split, row = rows[str(id_)]
        assert back.split[i] == split
        if row["kind"] == "original":
            at = int(table.positions([row["id"]])[0])
            assert np.array_equal(back.pixels[i], table.pixels[at])
            assert (back.y[i], split) == (table.y[at], table.split[at])
            assert row["bias"] == table.bias_names[table.bias[at]]
        else:
            item = int(row["id"].split("/")[1])
            seen.add(item)
            assert np.array_equal(back.pixels[i], made.pixels[item]) and split == "train"
            assert back.y[i] == made.origins[item].label and row["verdict"] in (
                "accept",
                "skip",
                None,
            )
        assert row["label"] == NAMES[back.y[i]]
    assert seen == {0, 2, 3, 4, 6, 7}  # 1 and 5 are rejected
    top = project.audit().top_k.ids.tolist()
    marks = {r["id"]: r["mark"] for _, r in rows.values() if r["mark"]}
    assert marks == {top[0]: "junk", top[1]: "label", top[2]: "conflict"}


def test_the_union_follows_the_last_training_s_settings(project):
    drain(debias_stage.run_debias(project, replace(DEBIAS, only_accepted=True), device=CPU))
    rows = lines(taken(project, "union")["train/metadata.jsonl"])
    assert [r["id"] for r in rows if r["kind"] == "synthetic"] == [f"{project.set_id()}/0"]


# ---- weights ----


def test_the_loading_example_runs_and_names_the_class_of_an_image(project, tmp_path):
    files = taken(project, "weights")
    with zipfile.ZipFile(project.export_file("weights")) as archive:
        archive.extractall(tmp_path / "w")
    assert len(files["load_example.py"].decode().splitlines()) == 10
    for name in ("f_B", "vanilla", "debiased"):
        assert json.loads(files[f"{name}/model.json"])["class_names"] == list(NAMES)
    folder = project.folder("debias") / "debiased"
    assert files["debiased/model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert json.loads(files["diffusion/model.json"])["made_by"] == "a test"
    readme = files["README.txt"].decode()
    assert '0  "../x"' in readme and "diffusion/" in readme and project.data_id() in readme
    net, table = project.net("debiased", CPU), project.table()
    for row in (0, 1, 59):
        path = tmp_path / "images" / str(table.ids[row])
        run = subprocess.run(
            [sys.executable, tmp_path / "w" / "load_example.py", path],
            cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        said = score(net, table.take([row]), device=CPU).pred[0]
        assert run.stdout.strip() == NAMES[said]


@pytest.mark.parametrize("config", ["shipped", replace(TINY_UNET, classes=3)])
def test_an_exported_u_net_is_diffusers_own(config, tmp_path):
    folder = SHIPPED["digit-"]
    if config != "shipped":
        folder = tmp_path / "made"
        torch.manual_seed(0)
        save_model(EpsilonNet(config), replace(DIFFUSION, unet=config), folder, made_by="a test")
    (taken_away := tmp_path / "diffusion").mkdir()
    for name, data in unet_files(folder).items():
        (taken_away / name).write_bytes(data)
    theirs = load_library().from_pretrained(taken_away).eval()
    ours, about = load_model(folder, CPU)
    x, t = torch.randn(4, 3, *[about.unet.image_size] * 2), torch.tensor([0, 250, 500, 999])
    y = torch.tensor([0, 1, 2, 3]) if about.unet.classes else None  # 3: no class
    with torch.no_grad():
        difference = (ours(x, t, y) - theirs(x, t, class_labels=y).sample).abs().max()
    print(f"largest difference {difference:.1e}")
    assert difference < 1e-4
    # Brought back it is the very same file, so that it has the id that a config names.
    (back := tmp_path / "back").mkdir()
    bring_model(taken_away, back)
    assert weights_digest(back) == weights_digest(folder)
    assert load_model(back, CPU)[1] == about


def test_a_run_is_repeated_with_the_model_that_was_taken_away(project, tmp_path):
    config = config_of(project)
    taken(project, "weights")
    with zipfile.ZipFile(project.export_file("weights")) as archive:
        archive.extractall(tmp_path / "w")
    _, result = repeated(project, config, model=tmp_path / "w" / "diffusion")
    assert result["same"]


def test_a_u_net_of_patches_stays_in_our_layout_and_the_readme_says_so(project):
    config = replace(TINY_UNET, image_size=16, patch=2)
    folder = project.folder("diffusion")
    save_model(EpsilonNet(config), replace(DIFFUSION, unet=config), folder, made_by="a test")
    files = taken(project, "weights")
    assert files["diffusion/model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "diffusers does not load it" in files["README.txt"].decode()


@pytest.mark.parametrize("size", [8, 64])
def test_an_exported_resnet_is_torchvision_s_own(size, project, tmp_path):
    net = build_classifier("resnet18", size, 3, seed=0).eval()
    folder = project.folder("debias") / "debiased"
    save_classifier(net, folder, network="resnet18", image_size=size, class_names=NAMES)
    files = taken(project, "weights")
    readme = files["README.txt"].decode()
    assert "in debiased/ have torchvision's own key names" in readme
    if size == 64:
        theirs = torchvision.models.resnet18(num_classes=3)
        theirs.load_state_dict(load(files["debiased/model.safetensors"]))
        x = torch.rand(4, 3, size, size) * 2 - 1
        with torch.no_grad():
            assert (net(x) - theirs.eval()(x)).abs().max() < 1e-5
        return
    with zipfile.ZipFile(project.export_file("weights")) as archive:
        archive.extractall(tmp_path / "w")
    table = project.table()
    path = tmp_path / "images" / str(table.ids[0])
    run = subprocess.run(
        [sys.executable, tmp_path / "w" / "load_example.py", path],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == NAMES[score(net, table.take([0]), device=CPU).pred[0]]


# ---- what is possible ----


def test_what_is_impossible_names_the_missing_stage(project):
    shutil.rmtree(project.folder("debias"))
    for what in ("weights", "config"):
        with pytest.raises(UserError, match="run `debias` first"):
            drain(export(project, what))
    told = []
    paths = drain(export(project, "all"), told.append)
    assert [p.name for p in paths] == ["synthetic.zip", "union.zip"]
    assert "no weights: " in told[-1].note and "run `debias` first" in told[-1].note
    shutil.rmtree(project.folder("synthetic"))
    with pytest.raises(UserError, match="run `generate` first"):
        drain(export(project, "union"))
    with pytest.raises(UserError, match="run `generate` first"):
        drain(export(project, "all"))
    with pytest.raises(UserError, match="choose synthetic, union"):
        drain(export(project, "pixels"))
    with pytest.raises(UserError, match="run `import` first"):
        drain(export(Project(project.workspace, "new"), "all"))


def test_all_writes_all(project):
    paths = drain(export(project, "all"))
    assert [p.name for p in paths] == ["synthetic.zip", "union.zip", "weights.zip", "config.json"]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(p.name for p in paths)


@pytest.mark.parametrize("what", ["union", "config"])
def test_a_kill_before_the_rename_leaves_the_old_file(project, what):
    drain(export(project, what))
    path = project.export_file(what)
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        Path.replace = lambda *_: os.kill(os.getpid(), 9)
        drain(export(project, what))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert path.read_bytes() == b"old"
    left = [p.name for p in path.parent.iterdir() if p != path]
    assert left == [f"{what}-new"]
    drain(export(project, what))
    assert path.read_bytes() != b"old" and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_stop_while_writing_leaves_the_old_file_and_nothing_else(project, monkeypatch):
    drain(export(project, "union"))
    before = project.export_file("union").read_bytes()
    monkeypatch.setattr(exports, "TELL", 0.0)
    stage = export(project, "union")
    while next(stage).done < 5:
        pass
    with pytest.raises(StopAsked):
        stage.throw(StopAsked())
    assert project.export_file("union").read_bytes() == before
    assert [p.name for p in project.export_file("union").parent.iterdir()] == ["union.zip"]


def test_a_full_disk_is_told_in_one_sentence(project, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"Can't write .*union.zip: No space left on device"):
        drain(export(project, "union"))
    assert list(project.export_file("union").parent.iterdir()) == []


# ---- repeat ----


def test_a_run_is_repeated_to_the_same_numbers_from_its_config_alone(project):
    config = config_of(project)
    assert json.loads(json.dumps(config)) == config
    fresh, result = repeated(project, config)
    assert result["same"] and result["largest_difference"] == 0
    assert result["got"] == result["expected"]
    assert result["got"]["images"] == {"vanilla": 45, "debiased": 45 + 6}  # 2 of 8 are rejected
    assert len(result["got"]["arms"]["debiased"]["unbiased_accuracy"]["per_seed"]) == 2
    assert np.array_equal(fresh.synthetic_pixels(), project.synthetic_pixels())
    for arm in ("vanilla", "debiased"):
        a, b = (p.net(arm, CPU).state_dict() for p in (project, fresh))
        assert all(torch.equal(a[k], b[k]) for k in a)
    for which in (project.data_id(), project.set_id()):
        there, here = (judgements.current(p.db, p.name, which) for p in (project, fresh))
        assert there == here and there
    assert config_of(fresh) == {**config, "data": config["data"]}  # and can be repeated again


def test_the_recorded_number_of_threads_is_used_and_put_back(project):
    before = torch.get_num_threads()
    config = config_of(project)
    assert config["expected"]["threads"] == before
    _, result = repeated(project, changed(config, "expected.threads", before + 1))
    assert result["got"]["threads"] == before + 1 and torch.get_num_threads() == before


def test_a_model_of_the_project_s_own_is_trained_again(project):
    drain(models.run_pretrain(project, DIFFUSION, device=CPU, restart=True))
    drain(generate.run_generate(project, INJECT, device=CPU))
    drain(debias_stage.run_debias(project, DEBIAS, device=CPU))
    fresh, result = repeated(project, config_of(project), model=None)
    assert result["same"] and models.model_id(fresh) == models.model_id(project)


def stopped(stage, name, done):
    """Drain a stage that is asked to stop and keep at that progress."""
    p = next(stage)
    while (p.stage, p.done) != (name, done):
        p = next(stage)
    try:
        p = stage.throw(StopAsked())
        while True:
            p = next(stage)
    except StopIteration as end:
        return end.value


def test_what_was_stopped_and_kept_is_repeated_as_far_as_it_went(project, small_grain):
    stopped(models.run_pretrain(project, replace(DIFFUSION, steps=40), device=CPU, restart=True),
            "pretrain", 10)  # fmt: skip
    stopped(generate.run_generate(project, INJECT, device=CPU), "generate", 4)
    arms = debias_stage.run_debias(project, replace(DEBIAS, seeds=(3, 4, 5)), device=CPU)
    told = []
    for p in arms:
        told.append(p)
        if p.stage == "train debiased, seed 4" and p.done == p.total:
            break
    with pytest.raises(StopIteration):
        arms.throw(StopAsked())
        drain(arms)
        raise StopIteration
    config = config_of(project)
    assert config["count"] == 4 and config["diffusion"]["config"]["steps"] == 10
    _, result = repeated(project, config, model=None)
    assert result["same"], result


def test_marks_made_after_the_images_are_kept_but_change_nothing(project):
    top = project.audit().top_k.ids.tolist()
    later = {top[3]: "junk", top[0]: None}
    judge(project, project.data_id(), later, judgements.MARKS)
    config = config_of(project)
    assert sorted(config["excluded"]) == sorted(top[:2]) and top[0] not in config["marks"]
    fresh, result = repeated(project, config)
    assert result["same"]
    assert judgements.current(fresh.db, fresh.name, fresh.data_id()) == config["marks"]


def test_a_k_moved_after_the_images_is_noticed(project):
    path = project.folder("synthetic") / "current.json"
    about = json.loads(path.read_text())
    then = project.manifest("audit")["config"]
    before = config_of(project)
    audit_stage.choose_k(project, 4, per_class=False)
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "audit"}))
    with pytest.raises(UserError, match="another audit, K or diffusion model"):
        config_of(project)
    path.write_text(json.dumps({**about, "audit": then}))
    assert config_of(project) == before  # where the set says what it was made with


def test_a_model_replaced_after_the_images_is_noticed(project, tiny_net):
    with torch.no_grad():
        next(tiny_net.parameters()).mul_(2)
    save_model(tiny_net, DIFFUSION, project.folder("diffusion"), made_by="another")
    with pytest.raises(UserError, match="run `generate` and `debias` again"):
        config_of(project)
    rows = lines(taken(project, "synthetic")["metadata.jsonl"])
    assert {(r["model"], r["made_by"]) for r in rows} == {(None, None)}


def test_verdicts_changed_after_the_training_are_noticed(project):
    judge(project, project.set_id(), {"7": "reject"}, judgements.JUDGEMENTS)
    with pytest.raises(UserError, match="Verdicts were changed since the last training"):
        config_of(project)


def test_a_changed_image_is_refused(project, tmp_path):
    config = config_of(project)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "image-30.png")
    with pytest.raises(UserError, match="not the images that the run was made with"):
        repeated(project, config)
    assert not (tmp_path / "other" / "again").exists()


def test_images_that_moved_are_asked_for(project, tmp_path):
    config = config_of(project)
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="say with --source where they are"):
        repeated(project, config)
    _, result = repeated(project, config, source=tmp_path / "moved" / "list.csv")
    assert result["same"]


def test_another_diffusion_model_is_refused(project, tiny_net, tmp_path):
    config = config_of(project)
    with torch.no_grad():
        next(tiny_net.parameters()).mul_(2)
    save_model(tiny_net, DIFFUSION, tmp_path / "m", made_by="another")
    with pytest.raises(UserError, match="not the diffusion model that the run was made with"):
        repeated(project, config, model=tmp_path / "m")
    with pytest.raises(UserError, match="as weights"):
        repeated(project, config, "b", model=tmp_path)
    with pytest.raises(UserError, match="not the diffusion model"):
        repeated(project, config, "c", model=None)  # the tiny net was never trained


def test_only_a_new_project_can_be_repeated_into(project):
    with pytest.raises(UserError, match="exists already"):
        drain(repeat(project, config_of(project), source=None, device=CPU))


def test_what_an_earlier_project_of_the_name_left_does_not_count(project, tmp_path):
    config = config_of(project)
    fresh, _ = repeated(project, config)
    judge(fresh, fresh.set_id(), {"3": "reject", "1": None}, judgements.JUDGEMENTS)
    judge(fresh, fresh.data_id(), {str(fresh.table().ids[20]): "junk"}, judgements.MARKS)
    fresh.replace_all()
    _, result = repeated(project, config)
    assert result["same"]


def test_the_digits_are_drawn_again(tmp_path, quick_judge):
    p = Project(tmp_path / "ws", "digits")
    importing.import_named(p, "digits", percent=1.0, seed=2, validation=True)
    drain(audit_stage.run_audit(p, replace(AUDIT, top_k=20), device=CPU))
    drain(generate.run_generate(p, replace(INJECT, count=4, steps=2), device=CPU))
    drain(debias_stage.run_debias(p, replace(DEBIAS, seeds=(0,)), device=CPU))
    config = config_of(p)
    assert config["diffusion"]["config"] is None
    with pytest.raises(UserError, match="leave --source out"):
        repeated(p, config, model=None, source=tmp_path)
    _, result = repeated(p, config, model=None)
    assert result["same"]
    assert "diffusion/config.json" not in taken(p, "weights")


# ---- a stranger's file ----


def changed(config, place, value):
    """A copy with the value at "a.b" replaced, or removed where `value` is `...`."""
    copy = json.loads(json.dumps(config))
    *way, last = place.split(".")
    at = copy
    for key in way:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return copy


TAMPERED = [
    ("format", 2, "format '2'"),
    ("format", ..., "missing in the file: 'format'"),
    ("run", "rm -rf /", "unknown in the file: 'run'"),
    ("data.source", {"kind": "url", "path": "http://x"}, "kind digits, cmnist, cifar10c or files"),
    ("data.source.path", 7, "'path' must be a str"),
    ("data.source.size", ..., "wrong settings"),
    ("data.source.seed", -1, "a seed must be"),
    ("data.data_id", "../../etc/passwd", "16 hexadecimal digits"),
    ("audit.classifier.network", "evil", "Unknown network"),
    ("audit.classifier.epochs", "3", "'epochs' must be a int"),
    ("audit.classifier.epochs", ..., "lacks a setting"),
    ("audit.top_k", True, "'top_k' must be a int"),
    ("audit.seed", -5, "a seed must be"),
    ("inject.gamma", 1.5, "gamma must lie"),
    ("inject.gamma", 10**400, "wrong settings"),
    ("inject.mask", [0, 1], "wrong settings"),
    ("inject.new", 1, "Unknown setting 'new'"),
    ("debias.seeds", [], "at least one seed"),
    ("debias", [], "debias must be an object"),
    ("diffusion.config.unet.head_dim", 0, "wrong settings"),
    ("diffusion.config.unet.res_blocks", 10**9, "can't be built"),
    ("diffusion.config.unet.channels", [8 * 10**6, 8 * 10**6], "can't be built"),
    ("diffusion.config.unet.image_size", 64, "can't be built"),
    ("diffusion.config.p2_k", float("nan"), "wrong settings"),
    ("debias.classifier.weight_decay", float("inf"), "wrong settings"),
    ("diffusion.model", None, "must be a text"),
    ("marks", {"image-00.png": "kill"}, "can't have 'kill' on 'image-00.png'"),
    ("marks", {"no\nsuch": "junk"}, r"it marks 'no\nsuch'"),
    ("excluded", ["nobody"], "it marks 'nobody'"),
    ("excluded", "image-00.png", "excluded must be a list"),
    ("count", 9, "count must be 1 to 8"),
    ("count", 6, "do not lead to the synthetic set"),
    ("set_id", "0" * 16, "do not lead to the synthetic set"),
    ("inject.seed", 1, "do not lead to the synthetic set"),
    ("verdicts", {"8": "accept"}, "images 0 to 7"),
    ("verdicts", {"-1": "accept"}, "can't have 'accept' on '-1'"),
    ("verdicts", {"٣": "accept"}, "can't have"),
    ("verdicts", {"1": {"x": 1}}, "can't have"),
    ("expected.top_k", ["image-00.png"], "another top-K"),
    ("expected.arms.vanilla", {}, "missing in expected.arms.vanilla"),
    ("expected.arms.vanilla.unbiased_accuracy.mean", "1", "must be a number"),
    ("expected.precision_at_k", 10**400, "must be a number"),
    ("expected.threads", 0, "threads must be 1 to"),
    ("expected.torch", "2\n\x1b[31m", "short name"),
]  # fmt: skip


def test_a_tampered_config_is_refused_with_one_clear_sentence(project):
    config = config_of(project)
    for n, (place, value, words) in enumerate(TAMPERED):
        model = None if "built" in words else project.folder("diffusion")
        try:
            _, result = repeated(project, changed(config, place, value), f"t{n}", model=model)
        except UserError as error:
            text = str(error)
        else:
            pytest.fail(f"{place} = {value} was taken: {result}")
        assert words in text and "\n" not in text and len(text) < 600, (place, text)


def test_changed_numbers_are_told_apart(project):
    config = config_of(project)
    mean = config["expected"]["arms"]["debiased"]["unbiased_accuracy"]["mean"]
    place = "expected.arms.debiased.unbiased_accuracy.mean"
    _, result = repeated(project, changed(config, place, mean + 0.25))
    assert not result["same"] and result["largest_difference"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"a": NaN}', "[" * 100_000, "\x00", '{"a": ' + "9" * 5000 + "}"]
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"not JSON|holds no settings"):
        read_config(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not JSON"):
        read_config(path)
    with pytest.raises(UserError, match="Can't read"):
        read_config(tmp_path)


def test_the_check_itself_starts_nothing(project):
    plan = check(config_of(project))
    assert plan.audit == AUDIT and plan.inject == settled(INJECT, CPU) and plan.debias == DEBIAS
    assert plan.diffusion == DIFFUSION


def test_an_export_older_than_what_it_is_made_of_is_not_offered(project):
    drain(export(project, "weights"))
    assert project.export_made("weights") and not project.export_made("union")
    drain(debias_stage.run_debias(project, replace(DEBIAS, seeds=(1,)), device=CPU))
    assert not project.export_made("weights") and project.export_file("weights").is_file()
    drain(export(project, "weights"))
    assert project.export_made("weights")


def test_what_no_config_can_repeat_is_refused_when_it_is_exported(project):
    drain(export(project, "config"))
    assert project.export_file("config").is_file()
    project.register({"kind": "planted", "of": "other", "bias": "corner", "percent": 5, "seed": 0})
    with pytest.raises(UserError, match="planted"):
        drain(export(project, "config"))
    drain(export(project, "all"))  # what lay there belongs to another time
    assert not project.export_file("config").exists() and project.export_made("weights")
