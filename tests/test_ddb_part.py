"""What the page says of DDB, and the jobs that it sets going; no browser."""

from pathlib import Path

import gradio as gr
import pytest

from debias_core.data.table import save_table
from debias_core.jobs import queue
from debias_core.pipeline import drain
from debias_core.settings.amplification import AmplifyConfig, DDBConfig
from debias_core.settings.base import from_json
from debias_core.settings.training import AuditConfig, ClassifierConfig
from debias_core.stages import amplify as amplify_stage
from debias_core.stages import audit as audit_stage
from debias_core.stages import ddb as ddb_stage
from debias_core.workspace.project import Project
from tests.conftest import CPU
from tests.test_amplify import CONFIG, DDB
from ui.shown.place import Place
from ui.tabs import amplify, groups, recipes

AUDIT = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=6, loss="gce"), top_k=6)


@pytest.fixture
def place(tmp_path, table):
    project = Project(tmp_path, "p")
    save_table(table, project.folder("data"))
    project.register({"kind": "files", "path": "/nowhere"})
    return Place(tmp_path, ())


def parts(place):
    """Both parts on a page of their own, and the handlers behind their buttons."""
    with gr.Blocks() as page:
        chosen = gr.Dropdown()
        made = [amplify.amplify(place, chosen), recipes.recipes(place, chosen)]
    return made, [f.fn for f in page.fns.values()]


def test_amplify_and_the_recipes_are_submitted_and_told(place, tmp_path):
    (drawing, training), (draw, train) = parts(place)
    assert drawing.refresh("p")[0] == "Not amplified yet."
    assert training.refresh("p")[0] == "Not trained by a recipe yet."
    with pytest.raises(gr.Error, match="run `amplify` first"):
        train("p", 1, "ddb-1", "amplifier", "filtered")
    draw("p", 2.0, 60, "synthetic")
    project = place.project("p")
    (job,) = queue.of_project(project.db, "p")
    asked = from_json(AmplifyConfig, job.args["config"])
    assert (job.kind, asked.w, asked.per_class, asked.diffusion.unet.classes) == (
        "amplify",
        2,
        60,
        3,
    )
    drain(amplify_stage.run_amplify(project, CONFIG, device=CPU))
    text, picture = drawing.refresh("p")
    assert "trained on drawn images" in text and "24 drawn images" in text
    assert Path(picture["value"][0][0]).is_file()
    train("p", 2, "ddb-2", "amplifier", "filtered")
    asked = from_json(DDBConfig, queue.of_project(project.db, "p")[0].args["config"])
    assert asked.recipe == "ddb-2" and asked.seeds == (0, 1)
    drain(ddb_stage.run_ddb(project, DDB, device=CPU))
    text, rows = training.refresh("p")
    assert "images are taken to break the pattern" in text
    assert [row[0] for row in rows["value"]] == ["vanilla", "by the recipe"]


def test_pseudo_groups_are_shown_of_either_classifier_s_losses(place):
    project = place.project("p")
    drain(audit_stage.run_audit(project, AUDIT, device=CPU))
    with gr.Blocks() as page:
        part = groups.groups(place, gr.Dropdown())
    look = next(iter(page.fns.values())).fn
    assert part.refresh("p")[0]["visible"] and part.refresh("p")[1] == "audit"
    with pytest.raises(gr.Error, match="run `amplify` first"):
        look("p", "amplifier", "filtered", 3.0)
    text, rows, cards = look("p", "audit", "error set", 3.0)
    wrong = project.losses("audit").pred != project.table().where("train").y
    assert [row[0] for row in rows] == ["ant", "bee", "cat"]
    assert sum(int(row[2]) for row in rows) == len(cards) == wrong.sum() > 0
    assert f"**{wrong.sum()} images**" in text and "of all that do are among them" in text
    none_is_so_far = look("p", "audit", "filtered", 60.0)
    assert none_is_so_far[2] == [] and "Empty groups, which are left out: 3." in none_is_so_far[0]
    drain(amplify_stage.run_amplify(project, CONFIG, device=CPU))
    assert part.refresh("p")[1] == "amplifier"
    assert [row[0] for row in look("p", "amplifier", "filtered", 1.0)[1]] == ["ant", "bee", "cat"]
