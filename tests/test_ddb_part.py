"""What the page says of DDB, and the jobs that it sets going; no browser."""

from pathlib import Path

import gradio as gr
import pytest

from debias_core.config import AmplifyConfig, DDBConfig, from_json
from debias_core.data.table import save_table
from debias_core.pipeline import drain
from debias_core.workspace import amplify, jobs
from debias_core.workspace.store import Project
from tests.conftest import CPU
from tests.test_amplify import CONFIG, DDB
from ui import ddb_part
from ui.session import Place


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
        made = [ddb_part.amplify(place, chosen), ddb_part.recipes(place, chosen)]
    return made, [f.fn for f in page.fns.values()]


def test_amplify_and_the_recipes_are_submitted_and_told(place, tmp_path):
    (drawing, training), (draw, train) = parts(place)
    assert drawing.refresh("p")[0] == "Not amplified yet."
    assert training.refresh("p")[0] == "Not trained by a recipe yet."
    with pytest.raises(gr.Error, match="run `amplify` first"):
        train("p", "ddb-1", "amplifier", "filtered", 1)
    draw("p", 2.0, 60, "synthetic")
    project = place.project("p")
    (job,) = jobs.of_project(project.db, "p")
    asked = from_json(AmplifyConfig, job.args["config"])
    assert (job.kind, asked.w, asked.per_class, asked.diffusion.unet.classes) == (
        "amplify",
        2,
        60,
        3,
    )
    drain(amplify.run_amplify(project, CONFIG, device=CPU))
    text, picture = drawing.refresh("p")
    assert "trained on drawn images" in text and "24 drawn images" in text
    assert Path(picture["value"][0][0]).is_file()
    train("p", "ddb-2", "amplifier", "filtered", 2)
    asked = from_json(DDBConfig, jobs.of_project(project.db, "p")[0].args["config"])
    assert asked.recipe == "ddb-2" and asked.seeds == (0, 1)
    drain(amplify.run_ddb(project, DDB, device=CPU))
    text, rows = training.refresh("p")
    assert "images are taken to break the pattern" in text
    assert [row[0] for row in rows["value"]] == ["vanilla", "debiased"]
