"""Tables draw with a model of the biased training part, that was told nothing; what ships is said to be told."""

import json
from dataclasses import replace

import pytest
import torch

import app
from debias_core.data.making.shipped import WITH_SWAPS
from debias_core.diffusion.injection import slerp
from debias_core.diffusion.sampling import ddim_step
from debias_core.presets import models as model_presets
from debias_core.settings.base import to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig, without_newer
from debias_core.stages import models
from debias_core.study import cells, rows, table_text
from debias_core.study.benchmark import benchmark_project
from debias_core.workspace.project import Project
from tests.conftest import TINY_UNET

SHORT = ("--audit-epochs", "1", "--epochs", "1", "--network", "mlp", "--count", "4", "--steps", "3")


@pytest.fixture
def tiny_generator(monkeypatch):
    """Two steps of a small network, whatever the images' size."""
    tiny = DiffusionConfig(unet=replace(TINY_UNET, image_size=16), steps=2, batch_size=4)
    monkeypatch.setattr(rows, "generator_for", lambda size: tiny)
    return tiny


def table(tmp_path, *words):
    out = tmp_path / "out.json"
    where = ("--seeds", "1", "--ratio", "5", "--workspace", str(tmp_path), "--json", str(out))
    assert app.main(["benchmark", "digits", *SHORT, *words, *where]) == 0
    return json.loads(out.read_text())["cells"]


def test_two_injections_share_a_generator_of_a_planted_bias(
    tmp_path, quick_judge, tiny_generator, monkeypatch
):
    trained = []
    real = models.run_pretrain

    def counting(*args, **options):
        trained.append(args[0].name)
        return (yield from real(*args, **options))

    monkeypatch.setattr(models, "run_pretrain", counting)
    both = ("--method", "diffinject", "--method", "crossinject", "--contents", "20")
    made = table(tmp_path, *both, "--bias", "corner")
    assert [c["error"] for c in made] == [None, None] and len(trained) == 1
    assert [c["told"] for c in made] == ["nothing", "nothing"]
    assert [c["settings"]["pretrain"]["steps"] for c in made] == [2, 2]
    assert made[1]["settings"]["inject"]["direct"] == []
    project = Project(tmp_path, trained[0])
    assert "of 2 steps" not in (project.folder("diffusion") / "config.json").read_text()
    # It is kept, and a model of other settings is not written over.
    assert table(tmp_path, *both, "--bias", "corner") == made and len(trained) == 1
    other = replace(tiny_generator, lr=1e-2)
    monkeypatch.setattr(rows, "generator_for", lambda size: other)
    words = [*SHORT, "--method", "crossinject", "--bias", "corner", "--ratio", "5", "--seeds", "1"]
    assert app.main(["benchmark", "digits", *words, "--workspace", str(tmp_path)]) == 2


def test_the_model_that_ships_is_told_and_stands_beside_the_biased_one(
    tmp_path, quick_judge, tiny_generator
):
    both = ("--method", "vanilla", "--method", "crossinject", "--contents", "20")
    biased, shipped = (table(tmp_path, *both, "--generator", g)[1] for g in rows.GENERATORS)
    assert (biased["told"], shipped["told"]) == ("nothing", "colours are interchangeable")
    assert "pretrain" not in shipped["settings"] or shipped["settings"]["pretrain"] is None
    assert shipped["settings"]["inject"]["direct"] == [200]
    project = benchmark_project(tmp_path, rows.benchmark_of("digits", "crossinject", 5.0), 0)
    assert models.diffusion_folder(project, swaps=True, shipped=True) == WITH_SWAPS["digit-"]
    assert models.diffusion_folder(project, swaps=True) == project.folder("diffusion")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "lff", "--generator", "biased"], "does not know --generator"),
        (["--method", "crossinject", "--generator", "mine"], "biased or shipped"),
        (["--method", "crossinject", "--generator", "biased", "--direct", "200"], "with swaps"),
        (["--method", "crossinject", "--bias", "size", "--generator", "shipped"], "No diffusion model"),
    ],
)  # fmt: skip
def test_a_generator_that_can_t_be_is_one_line(words, said, tmp_path, capsys):
    assert app.main(["benchmark", "digits", *words, "--workspace", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_the_generator_of_a_table_is_trained_without_swaps_in_minutes():
    small, larger = (model_presets.generator_for(side) for side in (16, 28))
    assert small.swap == larger.swap == 0 and small.unet.bottleneck == 4
    assert (small.steps, larger.steps) == (2_000, 3_000)


def test_ddb_on_a_planted_bias_trains_from_nothing(tmp_path, monkeypatch):
    seen = []

    def ddb_cell(project, on, seed, *, device):
        seen.append((project.source()["bias"], on.amplify.diffusion.unet.classes))
        yield from ()
        return {
            "dataset": "digits", "method": "ddb-1", "told": "nothing", "seed": seed, "ratio": 5.0,
            **dict.fromkeys((*cells.METRICS, *cells.COSTS), 0.5), "published": None,
        }  # fmt: skip

    monkeypatch.setattr(cells, "ddb_cell", ddb_cell)
    out = tmp_path / "out.json"
    words = [
        "--method",
        "ddb-1",
        "--bias",
        "corner",
        "--ratio",
        "5",
        "--seeds",
        "1",
        "--json",
        str(out),
    ]
    assert app.main(["benchmark", "digits", *words, "--workspace", str(tmp_path)]) == 0
    assert seen == [("corner", 10)]
    assert json.loads(out.read_text())["cells"][0]["error"] is None


def test_the_paper_s_own_diffinject_runs_untold_and_stands_apart_from_our_variant(
    tmp_path, quick_judge, tiny_generator
):
    out, text = tmp_path / "out.json", tmp_path / "out.md"
    words = ["benchmark", "digits", "--method", "diffinject", "--audit-epochs", "1", "--epochs", "1", "--seeds", "1",
             "--paper-protocol", "--workspace", str(tmp_path), "--json", str(out), "--markdown", str(text)]  # fmt: skip
    assert app.main([*words, "--ratio", "1", "--ratio", "5"]) == 0
    made = json.loads(out.read_text())["cells"]
    assert [(c["reading"], c["told"], c["ratio"]) for c in made] == [
        ("paper", "nothing", 1.0), ("paper", "nothing", 5.0),
    ]  # fmt: skip
    settings = made[0]["settings"]
    assert (settings["inject"]["count"], settings["audit"]["top_k"]) == (130, 10)
    assert (settings["inject"]["steps"], settings["inject"]["direct"]) == (50, [])
    assert "| diffinject (paper) | nothing | 1 % |" in text.read_text()
    mine = cells.over_seeds([{**made[0], "reading": "our variant"}])
    assert table_text.in_words(mine)["method"] == "diffinject, our variant"


def test_a_told_method_s_published_figure_says_that_the_paper_s_was_not_told():
    figures = dict.fromkeys((*table_text.METRICS, *table_text.COSTS), 0.5)
    about = {
        "dataset": "cmnist",
        "method": "diffinject",
        "bias": None,
        "ratio": 1.0,
        "seed": 0,
        "published": 0.8558,
    }
    told, untold = (
        cells.over_seeds([{**about, **figures, "told": t, "error": None}])
        for t in ("colours are interchangeable", "nothing")
    )  # fmt: skip
    assert "85.58 % ² |" in table_text.as_markdown(
        [told]
    ) and "told less" in table_text.as_markdown([told])
    assert "²" not in table_text.as_markdown([untold])
    oracle = {**untold, "method": "group-dro", "told": "true groups"}
    assert not table_text.more_was_told(oracle)  # the published one was told them too


def test_inside_a_mask_the_content_s_norm_may_stay_and_d_t_may_be_calibrated():
    h, c = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    h[:, 0], c[:, 1] = 1.0, 3.0  # at right angles
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    ours, theirs = (slerp(h, c, 1.0, mask, mask_norm=kept) for kept in (True, False))
    assert ours[0, 1, 0, 0] == pytest.approx(1.0) and theirs[0, 1, 0, 0] == pytest.approx(3.0)
    assert torch.equal(ours[0, :, 1, 1], h[0, :, 1, 1]) and torch.equal(
        theirs[0, :, 1, 1], h[0, :, 1, 1]
    )
    assert torch.equal(
        slerp(h, c, 0.5, mask_norm=False), slerp(h, c, 0.5)
    )  # without a mask there is no reading
    x, eps = torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    plain, less = (ddim_step(x, eps, 0.5, 0.75, calibration=f) for f in (1.0, 0.9985))
    assert (plain - less)[0, 0, 0, 0] == pytest.approx(0.0015 * 0.25**0.5 * 0.5, rel=1e-3)


def test_a_newer_reading_names_another_set_and_its_default_the_same_one():
    before = without_newer(to_json(InjectConfig()))
    assert "mask_norm" not in before and "calibration" not in before
    assert without_newer(to_json(InjectConfig(calibration=0.9985)))["calibration"] == 0.9985
