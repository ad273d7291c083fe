"""The routes behind the widgets: every shape, every bound, and what must never leave through them."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from debias_core.data.table import ImageTable, save_table
from debias_core.diffusion.unet import EpsilonNet, save_model
from debias_core.jobs import queue
from debias_core.pipeline import drain
from debias_core.settings.base import to_json
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from debias_core.settings.training import AuditConfig, ClassifierConfig, DebiasConfig
from debias_core.stages import audit as audit_stage
from debias_core.stages import debias as debias_stage
from debias_core.stages import generate
from debias_core.stages import report as report_stage
from debias_core.workspace import judgements
from debias_core.workspace.files import write_json
from debias_core.workspace.project import Project, working
from tests.conftest import CPU, TINY_UNET
from ui.server import guard
from ui.server.serve import create_app
from ui.shown.audit_view import inside
from ui.shown.place import Place

ROOT = Path(__file__).resolve().parents[1]
BASE = "http://127.0.0.1:7860"
CLASSES = ("ant", "<img src=x onerror=window.pwned=1>", "${alert(1)} {{7*7}} </script>\u2028\x00é")
TRAIN, MADE = 48, 12
AUDIT = AuditConfig(classifier=ClassifierConfig(network="mlp", epochs=3, loss="gce"), top_k=6)
CONV = AuditConfig(classifier=ClassifierConfig(network="conv", epochs=1, loss="gce"), top_k=6)
INJECT = InjectConfig(count=MADE, steps=4, batch_size=4)
DEBIAS = DebiasConfig(classifier=ClassifierConfig(network="mlp", epochs=2))
SHUFFLED = np.random.default_rng(1).permutation(60)


def images(seed=0):
    """60 images of 8 px in 3 classes with hostile names and ids; the train part is scattered."""
    rng = np.random.default_rng(seed)
    y = np.arange(60) % 3
    bias = y.copy()
    bias[:6] = (y[:6] + 1) % 3
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)])
    pixels = (colours[bias][:, None, None] + rng.integers(-25, 25, (60, 8, 8, 3))).astype(np.uint8)
    return ImageTable(
        ids=np.array([f"../<b>{i:02d}</b>/${{x}}.png" for i in range(60)]),
        y=y,
        split=np.where(SHUFFLED < TRAIN, "train", "test").astype("<U5"),
        class_names=CLASSES,
        pixels=pixels,
        bias=bias,
        bias_names=("red", "green", "blue"),
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two projects: `p` went through the whole loop with an MLP, `conv` is audited only."""
    home = tmp_path_factory.mktemp("ws")
    p, conv = Project(home, "p"), Project(home, "conv")
    for project, config in ((p, AUDIT), (conv, CONV)):
        save_table(images(), project.folder("data"))
        write_json(project.folder("data") / "import.json", {"accepted": 60, "refused": []})
        project.register({"kind": "files", "path": "/nowhere"})
        drain(audit_stage.run_audit(project, config, device=CPU))
    torch.manual_seed(0)
    net = EpsilonNet(TINY_UNET)
    save_model(net, DiffusionConfig(unet=TINY_UNET), p.folder("diffusion"), made_by="a test")
    drain(generate.run_generate(p, INJECT, device=CPU))
    drain(debias_stage.run_debias(p, DEBIAS, device=CPU))
    report = p.begin("report")
    (report / "report.html").write_text("<script>window.pwned = 1</script>")
    p.finish("report", {})
    drain(report_stage.run_export(p, "all"))
    return home


@pytest.fixture(scope="module")
def client(workspace):
    with TestClient(create_app(Place(workspace, (workspace,))), base_url=BASE) as client:
        yield client


@pytest.fixture
def fresh(workspace, request):
    """A copy of `p` of the test's own, for what changes it."""
    source, copy = (
        Project(workspace, "p"),
        Project(workspace, f"copy {abs(hash(request.node.name))}"),
    )
    shutil.copytree(source.root, copy.root)
    copy.register(source.source())
    copy.db.write(
        "INSERT OR REPLACE INTO synthetic (set_id, project, item, recipe, scores)"
        " SELECT set_id, ?, item, recipe, scores FROM synthetic WHERE project = 'p'",
        (copy.name,),
    )
    yield copy
    shutil.rmtree(copy.root, ignore_errors=True)


def get(client, path, status=200):
    answer = client.get(f"/api/{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


def post(client, path, body, status=200):
    """A POST; a body that is text is sent as it is."""
    text = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(f"/api/{path}", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(client, path, body=None):
    """The sentence with which a request is refused."""
    text = body if isinstance(body, str) else json.dumps(body)
    answer = (
        client.get(f"/api/{path}")
        if body is None
        else client.post(f"/api/{path}", content=text, headers={"Content-Type": "application/json"})
    )
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert list(answer.json()) == ["error"], answer.text
    error = answer.json()["error"]
    assert isinstance(error, str) and 5 < len(error) < 500
    assert "Traceback" not in error
    return error


def marks(*pairs):
    return {
        "marks": [{"key": f"k{i}{r}{m}", "row": r, "mark": m} for i, (r, m) in enumerate(pairs)]
    }


def said(set_id, *pairs):
    decisions = [{"key": f"v{i}{n}{v}", "item": n, "verdict": v} for i, (n, v) in enumerate(pairs)]
    return {"set": set_id, "verdicts": decisions}


def has_keys(found, *names):
    assert set(found) == set(names), set(found) ^ set(names)


# ---- shapes ----


def test_the_state_tells_steps_jobs_and_a_stamp_that_changes_with_the_project(client, fresh):
    name = fresh.name
    before = get(client, f"{name}/state")
    has_keys(before, "project", "stamp", "device", "steps", "jobs")
    assert before["project"] == name and before["jobs"] == []
    assert [s["name"] for s in before["steps"]] == [
        "Data", "Audit", "Augment", "Curate", "Train", "Report",
    ]  # fmt: skip
    for step in before["steps"]:
        has_keys(step, "name", "state", "reason")
        assert step["state"] in ("done", "current", "locked")
    assert get(client, f"{name}/state")["stamp"] == before["stamp"]
    post(client, f"{name}/k", {"k": 5})
    assert get(client, f"{name}/state")["stamp"] != before["stamp"]
    job = queue.submit(fresh.db, name, "audit", {"config": to_json(AUDIT)})
    (row,) = get(client, f"{name}/state")["jobs"]
    has_keys(
        row, "id", "kind", "title", "keeps", "state", "place", "stage", "done", "total", "note", "eta",
        "silent", "error", "log", "actions", "words",
    )  # fmt: skip
    assert (row["id"], row["state"], row["place"], row["actions"]) == (job, "queued", 1, ["now"])
    assert set(row["words"]) == set(row["actions"])
    assert post(client, f"{name}/jobs/{job}/now", {}) == {}
    assert get(client, f"{name}/state")["jobs"][0]["state"] == "stopped"


def test_the_audit_is_told_as_it_stands(client, workspace):
    found, result = get(client, "p/audit"), Project(workspace, "p").audit()
    has_keys(
        found, "ready", "version", "ranking", "n", "k", "per_class", "classes", "edges", "counts", "suggested", "cut",
        "rule", "known", "maps", "marks", "score",
    )  # fmt: skip
    assert found["ready"] is True and found["n"] == TRAIN and found["k"] == 6
    assert sum(found["counts"]) == TRAIN and len(found["edges"]) == len(found["counts"]) + 1
    assert found["cut"] == pytest.approx(float(result.top_k.loss.min()))
    assert found["maps"] == ["pca"] and found["known"] is True


def test_class_names_come_out_as_plain_json_and_nothing_else(client):
    assert get(client, "p/audit")["classes"] == list(CLASSES)
    for path in ("p/audit", "p/curate", "p/detail/0"):
        answer = client.get(f"/api/{path}")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    balance = get(client, "p/curate")["balance"]
    assert [row["class"] for row in balance] == list(CLASSES)


def test_the_order_is_by_loss_highest_first(client, workspace):
    found, scores = get(client, "p/order"), Project(workspace, "p").audit().scores
    loss = scores.loss[found["rows"]]
    assert sorted(found["rows"]) == list(range(TRAIN))
    assert (np.diff(loss) <= 0).all()
    assert found["top"] == found["rows"][:6]


def test_cards_say_what_the_table_and_the_scores_say(client, workspace):
    project = Project(workspace, "p")
    train, scores = project.table().where("train"), project.audit().scores
    order = get(client, "p/order")["rows"]
    cards = post(client, "p/cards", {"rows": [7, 0, 47, 7]})["cards"]
    assert [c["row"] for c in cards] == [7, 0, 47, 7]
    for c in cards:
        has_keys(
            c, "row", "id", "rank", "loss", "given", "predicted", "right", "mark", "thumb"
        )  # fmt: skip
        assert c["id"] == train.ids[c["row"]]
        assert order[c["rank"] - 1] == c["row"]
        assert c["loss"] == pytest.approx(float(scores.loss[c["row"]]), abs=6e-4)
        assert c["given"] == CLASSES[train.y[c["row"]]]
        assert c["right"] is (c["given"] == c["predicted"])
    assert post(client, "p/cards", {"rows": []}) == {"cards": []}


def test_every_point_of_the_map_is_sent_once(client, workspace):
    project = Project(workspace, "p")
    rows, xy = project.points("pca")
    found = get(client, "p/points?map=pca")
    has_keys(found, "rows", "x", "y", "label", "rule")
    assert found["rows"] == rows.tolist()
    assert np.allclose(np.stack([found["x"], found["y"]], 1), xy, atol=6e-4)
    assert found["label"] == project.table().where("train").y.tolist()
    assert get(client, "p/points") == found


def test_the_t_sne_map_is_offered_when_it_is_drawn(client, fresh):
    assert "t-SNE" in refused(client, f"{fresh.name}/points?map=tsne")
    square = [[-9, -9], [9, -9], [9, 9], [-9, 9]]
    assert "t-SNE" in refused(client, f"{fresh.name}/lasso", {"map": "tsne", "polygon": square})
    stamp = get(client, f"{fresh.name}/state")["stamp"]
    rows = np.array([5, 2, 40])
    fresh.save_tsne(rows, np.array([[0, 0], [1, 1], [20, 20]], dtype=np.float32))
    assert get(client, f"{fresh.name}/audit")["maps"] == ["pca", "tsne"]
    assert get(client, f"{fresh.name}/state")["stamp"] != stamp
    assert get(client, f"{fresh.name}/points?map=tsne")["rows"] == [5, 2, 40]
    found = post(client, f"{fresh.name}/lasso", {"map": "tsne", "polygon": square})["rows"]
    assert sorted(found) == [2, 5]


def test_the_detail_s_neighbours_are_the_nearest(client, workspace):
    features = Project(workspace, "p").features().astype(np.float64)
    for row in (0, 11, 47):
        found = get(client, f"p/detail/{row}")
        has_keys(
            found, "row", "id", "rank", "loss", "given", "predicted", "right", "mark", "thumb",
            "p", "text", "image", "heat", "heat_text", "neighbours",
        )  # fmt: skip
        near = [c["row"] for c in found["neighbours"]]
        apart = ((features - features[row]) ** 2).sum(1)
        others = np.delete(apart, row)
        assert row not in near and len(set(near)) == len(near) == 8
        assert np.allclose(apart[near], np.sort(others)[:8], rtol=1e-4, atol=1e-6)
        assert 0 <= found["p"] <= 1


def test_heat_is_a_picture_for_a_convolutional_net_and_null_for_an_mlp(client):
    flat, conv = get(client, "p/detail/3"), get(client, "conv/detail/3")
    assert flat["heat"] is None and "MLP" in flat["heat_text"]
    assert "looks" in conv["heat_text"]
    picture = client.get(conv["heat"])
    assert picture.status_code == 200 and picture.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(picture.content)).size == (384, 384)
    path, _, row = conv["heat"].rpartition("/")
    assert client.get(f"{path}/48").status_code == 404
    assert client.get(f"{path.rpartition('/')[0]}/0/{row}").status_code == 404
    # Asked for against the page's advice: refused in words, never a broken picture.
    version = get(client, "p/audit")["version"]
    answer = client.get(f"/heat/p/{version}/3")
    assert 400 <= answer.status_code < 500


def test_what_images_share_is_told_with_counts_and_a_caution(client):
    top = get(client, "p/order")["top"]
    found = post(client, "p/share", {"rows": top})
    has_keys(found, "text", "findings", "note", "remedy")
    assert (found["remedy"] is None) == (not found["findings"])
    assert found["text"] and "not proof" in found["note"]
    for f in found["findings"]:
        has_keys(f, "text", "scope", "count", "of", "rest_count", "rest_of", "effect", "p")
        assert 0 <= f["count"] <= f["of"] and 0 <= f["p"] <= 0.05
    assert post(client, "p/share", {"rows": []})["findings"] == []
    assert post(client, "p/share", {"rows": list(range(TRAIN))})["findings"] == []


def test_curate_lists_every_image_least_certain_first_with_pictures_that_are_there(client):
    found = get(client, "p/curate")
    has_keys(found, "set", "reason", "items", "balance", "can_undo")
    assert sorted(i["item"] for i in found["items"]) == list(range(MADE))
    fidelity = [i["fidelity"] for i in found["items"]]
    assert fidelity == sorted(fidelity)
    for item in found["items"]:
        has_keys(
            item, "item", "label", "verdict", "fidelity", "flags", "original", "content",
            "result", "text",
        )  # fmt: skip
        assert item["label"] in CLASSES and item["verdict"] is None
        for flag in item["flags"]:
            has_keys(flag, "name", "text")
        for url in (item["original"], item["content"], item["result"]):
            assert client.get(url).headers["content-type"] == "image/png"
    for row in found["balance"]:
        has_keys(row, "class", "originals", "accepted", "undecided", "rejected")
    assert sum(row["undecided"] for row in found["balance"]) == MADE
    assert sum(row["originals"] for row in found["balance"]) == TRAIN
    nothing = get(client, "conv/curate")
    assert nothing["set"] is None and nothing["items"] == [] and nothing["reason"]


def test_curves_and_the_mask_s_grid_are_there(client):
    found = get(client, "p/curves")
    assert found["job"] is None and found["running"] is False
    assert len(found["series"]) == 2
    for line in found["series"]:
        assert len(line["loss"]) == len(line["accuracy"]) == 2 and "seed 0" in line["name"]
    assert get(client, "conv/curves") == {"job": None, "running": False, "series": []}
    grid = get(client, "p/mask")
    assert grid["cells"] == TINY_UNET.bottleneck
    assert client.get(grid["image"]).headers["content-type"] == "image/png"
    assert "pretrain" in refused(client, "conv/mask")


def test_a_project_without_anything_says_what_is_missing(client, workspace):
    Project(workspace, "bare").root.mkdir(exist_ok=True)
    for name in ("bare", "nobody made this"):
        assert get(client, f"{name}/audit") == {"ready": False}
        assert get(client, f"{name}/state")["steps"][0]["state"] == "current"
        assert get(client, f"{name}/curate")["items"] == []
        for path in ("order", "points", "detail/0", "mask"):
            assert "first" in refused(client, f"{name}/{path}")
        for path, body in (
            ("cards", {"rows": [0]}), ("k", {"k": 1}), ("share", {"rows": [0]}),
            ("marks", marks((0, "junk"))), ("verdicts", said("x", (0, "accept"))),
            ("lasso", {"map": "pca", "polygon": [[0, 0], [1, 0], [1, 1]]}),
            ("undo", {"set": "x"}),
        ):  # fmt: skip
            refused(client, f"{name}/{path}", body)


# ---- bounds ----


@pytest.mark.parametrize("row", [-1, TRAIN, 10**9, 10**30])
def test_a_row_that_is_not_there_is_refused_and_nothing_is_saved(client, fresh, row):
    name = fresh.name
    refused(client, f"{name}/cards", {"rows": [0, row]})
    refused(client, f"{name}/detail/{row}")
    refused(client, f"{name}/share", {"rows": [0, 1, 2, row]})
    refused(client, f"{name}/marks", marks((0, "junk"), (row, "junk")))
    assert get(client, f"{name}/audit")["marks"] == {}


@pytest.mark.parametrize("item", [-1, MADE, 10**9, 10**30])
def test_an_item_that_is_not_there_is_refused_and_nothing_is_saved(client, fresh, item):
    set_id = fresh.set_id()
    refused(client, f"{fresh.name}/verdicts", said(set_id, (0, "accept"), (item, "accept")))
    after = get(client, f"{fresh.name}/curate")
    assert not after["can_undo"] and all(i["verdict"] is None for i in after["items"])


def test_an_item_of_an_earlier_set_has_the_earlier_set_s_bounds(client, fresh):
    fresh.db.write(
        "INSERT INTO synthetic (set_id, project, item, recipe) SELECT 'earlier', project, item,"
        " recipe FROM synthetic WHERE project = ? AND item < 3",
        (fresh.name,),
    )
    assert post(client, f"{fresh.name}/verdicts", said("earlier", (2, "accept")))["saved"] == 1
    for item in (-1, 3, 10**9):
        refused(client, f"{fresh.name}/verdicts", said("earlier", (item, "accept")))


NONSENSE = [
    "", "nonsense", "[]", "null", "1", '"rows"', "{}", '{"rows": null}', '{"rows": "0"}',
    '{"rows": [null]}', '{"rows": ["a"]}', '{"rows": [1.5]}', '{"rows": [NaN]}',
    '{"rows": [Infinity]}', '{"rows": [-Infinity]}', '{"rows": [1e400]}', '{"rows": {"0": 0}}',
    '{"rows": [[0]]}', '{"rows": "\\ud800"}', '{"rows": ["\\ud800"]}', "{" * 2000,
    "[" * 100_000, '{"rows": [' + "9" * 5000 + "]}", '{"rows": ["\\u0000"]}',
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_refused_in_a_sentence(client, body):
    for path in ("cards", "share"):
        refused(client, f"p/{path}", body)


@pytest.mark.parametrize(
    "body",
    ['{"marks": [{"key": "\\ud800", "row": 0, "mark": "junk"}]}',
     '{"marks": [{"key": "k", "row": 0, "mark": "\\ud800"}]}',
     '{"marks": [{"key": "", "row": 0, "mark": "junk"}]}',
     '{"marks": [{"key": "k", "row": NaN, "mark": "junk"}]}',
     '{"marks": [{"row": 0, "mark": "junk"}]}',
     '{"marks": [{"key": "k", "mark": "junk"}]}',
     '{"marks": [{"key": 5, "row": 0, "mark": "junk"}]}',
     json.dumps({"marks": [{"key": "k" * 101, "row": 0, "mark": "junk"}]}),
     json.dumps({"marks": [{"key": str(i), "row": 0, "mark": "junk"} for i in range(1001)]})],
    ids=range(9),
)  # fmt: skip
def test_nonsense_is_not_saved_as_a_mark(client, fresh, body):
    refused(client, f"{fresh.name}/marks", body)
    assert get(client, f"{fresh.name}/audit")["marks"] == {}


@pytest.mark.parametrize("path", ["undo", "verdicts"])
def test_the_set_is_a_text_that_can_be_kept(client, fresh, path):
    for body in ('{"set": "\\ud800", "verdicts": []}', '{"set": null}', '{"set": NaN}', "{}"):
        refused(client, f"{fresh.name}/{path}", body)


def test_at_most_two_hundred_cards_come_at_once(client):
    rows = [i % TRAIN for i in range(201)]
    refused(client, "p/cards", {"rows": rows})
    assert len(post(client, "p/cards", {"rows": rows[:200]})["cards"]) == 200


def test_a_body_of_more_than_two_megabytes_is_refused(client):
    for path in ("marks", "verdicts", "cards", "lasso"):
        answer = client.post(f"/api/p/{path}", content=b" " * (guard.MOST_JSON + 1))
        assert answer.status_code == 413 and answer.json() == {"error": guard.TOO_LONG}


@pytest.mark.parametrize("k", [0, -1, TRAIN + 1, 10**30, 1.5, None, "many", True, math.nan, "NaN"])
def test_k_lies_between_one_and_all_of_them(client, fresh, k):
    before = get(client, f"{fresh.name}/audit")
    if k is not True:  # true is 1 to pydantic, which harms nobody
        refused(client, f"{fresh.name}/k", {"k": k})
        assert get(client, f"{fresh.name}/audit") == before


def test_another_k_cuts_the_same_ranking_elsewhere(client, fresh):
    name, order = fresh.name, get(client, f"{fresh.name}/order")["rows"]
    for k in (1, 20, TRAIN):
        found = post(client, f"{name}/k", {"k": k, "per_class": False})
        assert found["k"] == k and not found["per_class"]
        assert found == get(client, f"{name}/audit")
        assert get(client, f"{name}/order") == {"rows": order, "top": order[:k]}
        assert found["cut"] == pytest.approx(float(fresh.audit().scores.loss[order[k - 1]]))


def test_k_per_class_takes_as_many_of_each(client, fresh):
    found = post(client, f"{fresh.name}/k", {"k": 2, "per_class": True})
    assert found["k"] == 2 and found["per_class"] is True
    top = get(client, f"{fresh.name}/order")["top"]
    y = fresh.table().where("train").y
    assert np.bincount(y[top]).tolist() == [2, 2, 2]
    loss = fresh.audit().scores.loss[top]
    assert (np.diff(loss) <= 0).all()


def test_k_waits_for_nobody_who_is_at_work_on_the_project(client, fresh):
    with working(fresh):
        assert "Another process" in refused(client, f"{fresh.name}/k", {"k": 3})


# ---- the lasso ----


def ring(rng, spikes, centre, scale):
    """A random star-shaped polygon: mostly concave, never crossing itself."""
    angle = np.sort(rng.uniform(0, 2 * math.pi, spikes))
    radius = scale * rng.uniform(0.2, 1.0, spikes)
    return centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def turns(polygon, x, y):
    """How often a polygon winds round a point: the sum of the angles under which its sides are seen."""
    angles = [math.atan2(b - y, a - x) for a, b in polygon]
    steps = [
        (v - u + math.pi) % (2 * math.pi) - math.pi
        for u, v in zip(angles, angles[1:] + angles[:1], strict=True)
    ]
    return round(sum(steps) / (2 * math.pi))


def test_the_lasso_takes_exactly_the_points_inside(client, workspace):
    rng = np.random.default_rng(0)
    project = Project(workspace, "p")
    rows, xy = project.points("pca")
    rank = {r: i for i, r in enumerate(get(client, "p/order")["rows"])}
    spread, hits = xy.std(0), 0
    for spikes in (3, 4, 5, 8, 20, 60):
        for _ in range(5):
            centre = xy[rng.integers(len(xy))] + 0.3 * spread * rng.normal(size=2)
            polygon = ring(rng, spikes, centre, 1.5 * spread.max())
            if spikes > 4:
                polygon = polygon[:: rng.choice([-1, 1])]
            body = {"map": "pca", "polygon": polygon.tolist()}
            found = post(client, "p/lasso", body)["rows"]
            expected = [int(r) for r, (x, y) in zip(rows, xy, strict=True) if turns(polygon, x, y)]
            assert sorted(found) == sorted(expected)
            assert found == sorted(found, key=rank.get)
            hits += len(found)
    assert hits > 100


def test_concave_and_crossing_outlines_follow_the_even_odd_rule():
    rng = np.random.default_rng(1)
    xy = rng.uniform(-1.2, 1.2, (1500, 2)).astype(np.float32)
    for spikes in (3, 7, 30):
        polygon = ring(rng, spikes, np.zeros(2), 1.0)
        assert inside(polygon, xy).tolist() == [bool(turns(polygon, x, y)) for x, y in xy]
    # A five-pointed star drawn in one line winds twice round its middle, which is then outside.
    star = np.array([(math.sin(0.8 * math.pi * i), math.cos(0.8 * math.pi * i)) for i in range(5)])
    assert inside(star, xy).tolist() == [turns(star, x, y) % 2 == 1 for x, y in xy]
    assert not inside(star, np.zeros((1, 2), dtype=np.float32)).any()


def test_a_lasso_round_everything_and_one_round_nothing(client):
    box = [[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]
    assert len(post(client, "p/lasso", {"map": "pca", "polygon": box})["rows"]) == TRAIN
    far = [[1e6, 1e6], [1e6 + 1, 1e6], [1e6, 1e6 + 1]]
    assert post(client, "p/lasso", {"map": "pca", "polygon": far})["rows"] == []
    line = [[0, 0], [1, 1], [2, 2]]
    assert post(client, "p/lasso", {"map": "pca", "polygon": line})["rows"] == []


POLYGONS = [
    [[0, 0], [1, 1]], [], [[0, 0]] * 10_000, [[0, 0], [1, 0], [math.nan, 1]],
    [[0, 0], [1, 0], [math.inf, 1]], [[0, 0], [1, 0], [0, -math.inf]], "[[0,0],[1,0],[1,1]]",
    [["a", 0], [1, 0], [1, 1]], [[0], [1, 0], [1, 1]], [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
    [[None, 0], [1, 0], [1, 1]], {"0": [0, 0]}, None,
]  # fmt: skip


@pytest.mark.parametrize("polygon", POLYGONS, ids=range(len(POLYGONS)))
def test_what_is_no_outline_is_refused(client, polygon):
    refused(client, "p/lasso", {"map": "pca", "polygon": polygon})


def test_a_huge_number_in_an_outline_is_refused_or_harmless(client):
    for text in ("1e400", "-1e400", "1e308", "9" * 400):
        body = f'{{"map": "pca", "polygon": [[0, 0], [{text}, 0], [0, 1]]}}'
        answer = client.post("/api/p/lasso", content=body)
        assert answer.status_code in (200, 400, 422)


def test_a_map_is_known_by_its_name_only(client):
    for name in ("../pca", "features", "", None, 1, ["pca"]):
        refused(client, "p/lasso", {"map": name, "polygon": [[0, 0], [1, 0], [1, 1]]})
    refused(client, "p/points?map=../features")


# ---- names and paths ----

NAMES = [
    "%2e%2e", "%2e", "a%2fb", "a/b", "..%2f..%2fp", "%2e%2e%2fp", "..%5cp", "p%00", "%00",
    ".hidden", "a" * 65, "a" * 5000, "%F0%9F%90%9C", "%ff", "p%20", "p.", "-p", "%0ap", "p%0a",
    "<script>", "${x}", "studio.db%2f", "~", "%252e%252e",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_can_t_be_a_project_s_name_is_refused_everywhere(client, name, workspace):
    before = sorted(p.name for p in workspace.iterdir())
    for path in ("state", "audit", "order", "curate", "curves", "mask", "points", "detail/0"):
        answer = client.get(f"/api/{name}/{path}")
        assert answer.status_code in (400, 404), (path, answer.text)
        assert "Traceback" not in answer.text and str(workspace) not in answer.text
    for path in ("k", "cards", "marks", "verdicts", "undo", "lasso", "share", "jobs/1/now"):
        answer = client.post(f"/api/{name}/{path}", json={})
        assert answer.status_code in (400, 404, 422), (path, answer.text)
    for path in (
        f"/thumb/{name}/data/x/0", f"/image/{name}/synthetic/x/0", f"/heat/{name}/x/0",
        f"/report/{name}", f"/download/{name}/import",
    ):  # fmt: skip
        answer = client.get(path)
        # A path that names no route of ours is the page's, or nothing; never a file.
        assert answer.status_code in (400, 404), (path, answer.text[:200])
    assert sorted(p.name for p in workspace.iterdir()) == before


def test_a_request_of_the_wrong_kind_is_refused(client):
    for method, path in (
        ("POST", "state"), ("GET", "marks"), ("PUT", "marks"), ("DELETE", "audit"),
        ("GET", "nothing"), ("GET", "jobs/1/now"), ("POST", "undo/0"),
    ):  # fmt: skip
        assert client.request(method, f"/api/p/{path}").status_code in (404, 405), path


def ask(app, path):
    """(status, headers, body) of a path as it is, which a client would have tidied up."""
    messages = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": [(b"host", b"127.0.0.1:7860")],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 7860),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    headers = dict(messages[0]["headers"])
    return messages[0]["status"], headers, b"".join(m.get("body", b"") for m in messages)


@pytest.mark.parametrize(
    "path",
    ["/report/..", "/report/../p", "/report/./p", "/report//p", "/download/../import", "/api/../p/state",
     "/download/p/../../studio.db", "/download/p/../p/data/pixels.npy", "/../app.py", "//etc/passwd",
     "/thumb/../p/data/x/0", "/widgets/../../app.py", "/static/../../../app.py", "/assets/../app.py",
     "/gradio_api/file=../../app.py", "/gradio_api/file=/work/../etc/passwd", "/p/../studio.db"],
)  # fmt: skip
def test_a_path_that_climbs_reaches_nothing(client, path):
    status, headers, body = ask(client.app, path)
    assert 400 <= status < 500 and b"content-disposition" not in headers
    assert b"SQLite format" not in body and b"root:" not in body and b"import" not in body


# ---- pictures ----


def test_pictures_are_png_by_number_for_ever_and_nothing_else(client, workspace):
    project = Project(workspace, "p")
    train, data_id, set_id = project.table().where("train"), project.data_id(), project.set_id()
    for url, pixels in (
        (f"/thumb/p/data/{data_id}/5", train.pixels[5]),
        (f"/image/p/data/{data_id}/5", train.pixels[5]),
        (f"/image/p/synthetic/{set_id}/3", project.synthetic_pixels()[3]),
        (f"/thumb/p/synthetic/{set_id}/3", project.synthetic_pixels()[3]),
    ):
        answer = client.get(url)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]
        picture = np.asarray(Image.open(BytesIO(answer.content)))
        side = 128 if url.startswith("/thumb") else 384
        assert picture.shape == (side, side, 3)
        assert np.array_equal(picture[:: side // 8, :: side // 8], pixels)
    for url in (
        f"/thumb/p/data/{data_id}/48", f"/thumb/p/data/{data_id}/-1", "/thumb/p/data/0/5",
        f"/thumb/p/data/{data_id}/{10**30}", f"/image/p/synthetic/{set_id}/{MADE}",
        f"/image/p/synthetic/{set_id}/-1", "/image/p/synthetic/other/0",
        f"/thumb/conv/synthetic/{set_id}/0", f"/thumb/nobody/data/{data_id}/0",
    ):  # fmt: skip
        assert client.get(url).status_code in (400, 404), url
    for number in ("five", "5.png", "../5", "5%00", "1e1", "0x5", "%2e%2e%2fpixels.npy"):
        answer = client.get(f"/thumb/p/data/{data_id}/{number}")
        assert answer.status_code in (404, 422), number
    assert client.get(f"/original/p/data/{data_id}/5").status_code in (404, 422)


def test_the_pictures_of_replaced_data_are_gone(client, fresh):
    name, before = fresh.name, fresh.data_id()
    url = f"/thumb/{name}/data/{before}/0"
    heat = get(client, f"{name}/audit")["version"]
    assert client.get(url).status_code == 200
    fresh.replace_all()
    save_table(images(seed=5), fresh.folder("data"))
    assert fresh.data_id() != before
    assert client.get(url).status_code == 404
    assert client.get(f"/thumb/{name}/data/{fresh.data_id()}/0").status_code == 200
    assert client.get(f"/heat/{name}/{heat}/0").status_code in (400, 404)
    assert client.get(f"/image/{name}/synthetic/0/0").status_code in (400, 404)
    assert get(client, f"{name}/audit") == {"ready": False}


# ---- marks and verdicts ----


def test_a_mark_that_is_sent_twice_counts_once(client, fresh):
    body = marks((4, "junk"), (9, "conflict"))
    first = post(client, f"{fresh.name}/marks", body)
    assert first == {"saved": 2, "marks": {"4": "junk", "9": "conflict"}}
    assert post(client, f"{fresh.name}/marks", body) == {**first, "saved": 0}
    later = {"marks": [{"key": "later", "row": 4, "mark": None}]}
    assert post(client, f"{fresh.name}/marks", later)["marks"] == {"9": "conflict"}
    # The first arrives once more, late: it is known, and does not win over what came after it.
    assert post(client, f"{fresh.name}/marks", body)["marks"] == {"9": "conflict"}
    (card,) = post(client, f"{fresh.name}/cards", {"rows": [9]})["cards"]
    assert (
        card["mark"] == "conflict" and get(client, f"{fresh.name}/detail/9")["mark"] == "conflict"
    )


def test_an_unknown_mark_refuses_its_whole_batch(client, fresh):
    assert "lovely" in refused(client, f"{fresh.name}/marks", marks((1, "junk"), (2, "lovely")))
    assert get(client, f"{fresh.name}/audit")["marks"] == {}


def test_marks_stay_with_their_images_through_a_new_import_of_the_same_data(client, fresh):
    post(client, f"{fresh.name}/marks", marks((4, "junk"), (40, "label")))
    fresh.replace_all()
    save_table(images(), fresh.folder("data"))
    fresh.register({"kind": "files", "path": "/nowhere"})
    drain(audit_stage.run_audit(fresh, AUDIT, device=CPU))
    assert get(client, f"{fresh.name}/audit")["marks"] == {"4": "junk", "40": "label"}
    fresh.replace_all()
    save_table(images(seed=3), fresh.folder("data"))
    drain(audit_stage.run_audit(fresh, AUDIT, device=CPU))
    assert get(client, f"{fresh.name}/audit")["marks"] == {}


def test_a_verdict_that_is_none_saves_none_of_its_batch(client, fresh):
    name, set_id = fresh.name, fresh.set_id()
    for bad in ("maybe", "conflict", ""):
        refused(client, f"{name}/verdicts", said(set_id, (0, "accept"), (1, bad), (2, "reject")))
    assert not get(client, f"{name}/curate")["can_undo"]
    found = post(
        client, f"{name}/verdicts", said(set_id, (0, "accept"), (1, "reject"), (2, "skip"))
    )
    assert found["saved"] == 3 and found["can_undo"]
    has_keys(found, "saved", "balance", "can_undo")
    assert [sum(r[k] for r in found["balance"]) for k in ("accepted", "rejected", "undecided")] == [
        1, 1, MADE - 2,
    ]  # fmt: skip
    verdict = {i["item"]: i["verdict"] for i in get(client, f"{name}/curate")["items"]}
    assert [verdict[i] for i in range(4)] == ["accept", "reject", "skip", None]


def test_a_set_of_another_project_is_refused(client, workspace, fresh):
    set_id = fresh.set_id()
    for other in ("no-such-set", "", fresh.data_id(), "guess"):
        refused(client, f"{fresh.name}/verdicts", said(other, (0, "accept")))
    save_table(images(), Project(workspace, "elsewhere").folder("data"))
    refused(client, "elsewhere/verdicts", said(set_id, (0, "accept")))
    assert not get(client, f"{fresh.name}/curate")["can_undo"]


def test_undo_takes_the_last_verdict_back_and_then_the_one_before(client, fresh):
    name, set_id = fresh.name, fresh.set_id()
    post(client, f"{name}/verdicts", said(set_id, (0, "accept")))
    post(client, f"{name}/verdicts", said(set_id, (5, "reject"), (0, "reject")))
    first = post(client, f"{name}/undo", {"set": set_id})
    has_keys(first, "item", "verdict", "balance", "can_undo")
    assert (first["item"], first["verdict"], first["can_undo"]) == (0, "accept", True)
    second = post(client, f"{name}/undo", {"set": set_id})
    assert (second["item"], second["verdict"]) == (5, None)
    third = post(client, f"{name}/undo", {"set": set_id})
    assert (third["item"], third["verdict"], third["can_undo"]) == (0, None, False)
    nothing = post(client, f"{name}/undo", {"set": set_id})
    assert (nothing["item"], nothing["verdict"]) == (None, None)


@pytest.mark.parametrize("which", ["data", "unknown", "guess"])
def test_undo_reaches_nothing_but_verdicts_on_the_project_s_own_sets(client, fresh, which):
    post(client, f"{fresh.name}/marks", marks((4, "junk")))
    set_id = {"data": fresh.data_id(), "unknown": "no-such-set", "guess": "guess"}[which]
    decision = [judgements.Judgement("g", "looks at", "colour")]
    judgements.record(fresh.db, fresh.name, "guess", decision, ["colour"])
    refused(client, f"{fresh.name}/undo", {"set": set_id})
    assert get(client, f"{fresh.name}/audit")["marks"] == {"4": "junk"}
    assert judgements.current(fresh.db, fresh.name, "guess") == {"looks at": "colour"}


def test_twenty_threads_judge_and_read_at_once_and_nothing_is_lost(client, fresh):
    name, set_id, app = fresh.name, fresh.set_id(), client.app
    rounds, people = 10, 20

    def person(number):
        mine = TestClient(app, base_url=BASE)
        for r in range(rounds):
            item, verdict = (number + r) % MADE, ("accept", "reject", "skip", None)[r % 4]
            decision = {"key": f"{number}-{r}", "item": item, "verdict": verdict}
            answer = post(mine, f"{name}/verdicts", {"set": set_id, "verdicts": [decision]})
            assert answer["saved"] == 1
            seen = get(mine, f"{name}/curate")
            assert len(seen["items"]) == MADE and seen["can_undo"]
            assert (
                sum(b[k] for b in seen["balance"] for k in ("accepted", "undecided", "rejected"))
                == MADE
            )
            mark = {"key": f"m{number}-{r}", "row": number, "mark": "junk"}
            assert post(mine, f"{name}/marks", {"marks": [mark]})["marks"][str(number)] == "junk"

    with ThreadPoolExecutor(people) as pool:
        list(pool.map(person, range(people)))
    (row,) = fresh.db.rows(
        "SELECT COUNT(*) AS n FROM verdicts WHERE project = ? AND set_id = ?", (name, set_id)
    )
    assert row["n"] == rounds * people
    assert len(get(client, f"{name}/audit")["marks"]) == people


def test_reading_while_the_cut_moves_never_fails(client, fresh):
    name, app = fresh.name, client.app

    def reader(_):
        mine = TestClient(app, base_url=BASE)
        for _ in range(15):
            assert len(get(mine, f"{name}/order")["rows"]) == TRAIN
            assert get(mine, f"{name}/audit")["n"] == TRAIN
            assert get(mine, f"{name}/detail/3")["row"] == 3

    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(reader, i) for i in range(4)]
        for k in range(1, 15):
            post(client, f"{name}/k", {"k": k})
        for done in readers:
            done.result()


# ---- jobs ----


def test_a_job_of_another_project_can_t_be_touched(client, fresh):
    job = queue.submit(fresh.db, fresh.name, "report", {})
    for action in ("now", "keep", "dismiss", "resume", "half"):
        refused(client, f"p/jobs/{job}/{action}", {})
    assert queue.get(fresh.db, job).state == "queued"
    queue.act(fresh.db, job, "now")


@pytest.mark.parametrize("job", [0, -1, 10**6, 2**63, 10**30])
def test_a_job_that_is_not_there_is_refused(client, job):
    refused(client, f"p/jobs/{job}/now", {})


def test_an_action_that_is_none_is_refused(client, fresh):
    job = queue.submit(fresh.db, fresh.name, "report", {})
    for action in ("keep", "resume", "explode", "x" * 3000, "%00", "${x}"):
        refused(client, f"{fresh.name}/jobs/{job}/{action}", {})
    assert client.post(f"/api/{fresh.name}/jobs/one/now").status_code in (400, 422)
    post(client, f"{fresh.name}/jobs/{job}/now", {})


# ---- files ----


@pytest.mark.parametrize(
    "path",
    ["/report/p", "/download/p/import", "/download/p/synthetic", "/download/p/union",
     "/download/p/weights", "/download/p/config"],
)  # fmt: skip
def test_a_file_leaves_as_a_download_and_never_as_a_page(client, path):
    answer = client.get(path)
    assert answer.status_code == 200 and answer.content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith('attachment; filename="p-')
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_is_not_made_is_not_there(client):
    for path in ("/report/conv", "/download/conv/union", "/download/nobody/import"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/download/p/../../studio.db", "/download/p/..%2f..%2fstudio.db", "/download/p/%2e%2e",
     "/download/p/import.json", "/download/p/data", "/download/p/%2fetc%2fpasswd",
     "/download/%2e%2e/import", "/download/..%2fp/import", "/download/p%2fdata/import",
     "/report/..%2fp", "/report/p%2f..%2fp", "/download/p/import%00", "/report/p/../../studio.db",
     "/thumb/p/data/..%2f..%2fstudio.db/0", "/image/p/synthetic/..%2f..%2fdata/0",
     "/heat/p/..%2fdata/0", "/widgets/..%2f..%2fapp.py", "/widgets/%2e%2e%2fapp.py",
     "/static/..%2f..%2fapp.py", "/assets/..%2f..%2f..%2fapp.py", "/studio.db", "/p/data/pixels.npy"],
)  # fmt: skip
def test_no_other_file_leaves_through_any_path(client, path):
    answer = client.get(path)
    assert 400 <= answer.status_code < 500, answer.text[:200]
    assert b"SQLite format" not in answer.content and b"root:" not in answer.content
    assert b"The door to Debias" not in answer.content and b"\x93NUMPY" not in answer.content


# ---- gradio's own routes ----


def upload(client, name, content):
    answer = client.post(
        "/gradio_api/upload", files={"files": (name, content)}, headers={"Origin": BASE}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


HOSTILE = b"<html><script>window.pwned = 1</script></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>window.pwned = 1</script></svg>'


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.html", HOSTILE), ("a.htm", HOSTILE), ("a.xhtml", HOSTILE), ("a.svg", SVG), ("a.SVG", SVG),
     ("a.xml", SVG), ("a.js", b"alert(1)"), ("a.mjs", b"alert(1)"), ("a.pdf", b"%PDF-1.4"),
     ("a", HOSTILE), ("a.png.html", HOSTILE), ("a.css", b"*{}"), ("a.mht", HOSTILE)],
)  # fmt: skip
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-20"}, {"Range": "bytes=0-"}])
def test_an_upload_never_comes_back_as_a_page_of_this_origin(client, name, content, headers):
    path = upload(client, name, content)
    for route in ("/gradio_api/file=", "/gradio_api/file/"):
        answer = client.get(route + path, headers=headers)
        if answer.status_code not in (200, 206):
            continue
        assert answer.headers["content-type"].split(";")[0] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_page_that_is_named_as_a_picture_stays_a_picture(client):
    answer = client.get("/gradio_api/file=" + upload(client, "a.png", HOSTILE))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_gradio_gives_no_file_of_this_machine(client, workspace):
    stray = Path(tempfile.gettempdir()) / "debias-test-stray.txt"
    stray.write_text("secret")
    try:
        for path in (
            "/etc/passwd", "/etc/hostname", str(ROOT / "app.py"), "app.py", "./app.py", str(stray),
            str(workspace / "studio.db"), str(workspace / "p" / "data" / "pixels.npy"),
            str(workspace / "p" / "report" / "report.html"), "file:///etc/passwd", "..", "/",
            str(ROOT / "assets" / "digits16" / "config.json"), "%2e%2e/app.py", "//etc/passwd",
        ):  # fmt: skip
            for route in ("/gradio_api/file=", "/gradio_api/file/"):
                answer = client.get(route + path)
                assert 400 <= answer.status_code < 500, (route + path, answer.text[:200])
                assert "secret" not in answer.text and "root:" not in answer.text
    finally:
        stray.unlink()


def test_the_server_fetches_nothing_from_elsewhere_on_a_page_s_behalf(client, monkeypatch):
    import gradio.routes

    asked = []

    async def fetch(url, request):
        asked.append(url)
        raise RuntimeError("the server was about to call another machine")

    monkeypatch.setattr(gradio.routes, "secure_url_stream_response", fetch)
    for path in (
        "file=https://example.com/a.png", "file=http://10.0.0.1/", "file=HTTPS://example.com/",
        "file/https://example.com/a.png", "file/http://example.com/", "proxy=https://hf.space/x",
    ):  # fmt: skip
        answer = client.get(f"/gradio_api/{path}")
        assert 400 <= answer.status_code < 500
    assert asked == []


def queued(client, fn_index, data, session="s", **event):
    """One event through gradio's queue; the last message of its stream."""
    body = {"data": data, "fn_index": fn_index, "session_hash": session, **event}
    asked = client.post("/gradio_api/queue/join", json=body, headers={"Origin": BASE})
    assert asked.status_code == 200, asked.text
    stream = client.get("/gradio_api/queue/data", params={"session_hash": session})
    events = [
        json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")
    ]
    return next(e for e in events if e["msg"] == "process_completed")


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "studio.db"])
def test_a_handler_takes_no_upload_that_was_not_uploaded(client, workspace, path):
    """The form that looks at a source takes what gradio has stored, not what a browser says it has."""
    config = client.get("/config").json()
    ids = {c["id"]: c for c in config["components"]}
    looks = [
        d for d in config["dependencies"]
        if len(d["inputs"]) == 3 and ids[d["inputs"][1]]["type"] == "file"
    ]  # fmt: skip
    (look,) = looks
    path = str(workspace / path) if path == "studio.db" else path
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.zip"}
    done = queued(client, look["id"], ["", file, "none"], session=f"look {path}")
    assert done["success"] is False
    assert "root:" not in json.dumps(done) and "SQLite" not in json.dumps(done)
