"""The whole demo at its smallest: every number of the JSON is there and hangs together."""

import json

import app


def test_the_demo_writes_every_number(tmp_path, quick_judge):
    out = tmp_path / "out.json"
    arguments = ["demo", "--seeds", "2", "--count", "20", "--epochs", "1", "--audit-epochs", "2"]
    arguments += ["--steps", "4"]
    assert app.main([*arguments, "--workspace", str(tmp_path / "ws"), "--json", str(out)]) == 0
    r = json.loads(out.read_text())
    for value in (
        r["precision_at_k"],
        r["vanilla"]["unbiased_accuracy"],
        r["debiased"]["unbiased_accuracy"],
        r["debiased"]["worst_group_accuracy"],
    ):
        assert len(value["per_seed"]) == 2
        assert abs(sum(value["per_seed"]) / 2 - value["mean"]) < 1e-9
        assert 0 <= value["mean"] <= 1
    assert r["synthetic_count"] == 20 and r["k"] == 10 and r["scored_on"] == "test"
    stages = {"import", "pretrain", "audit", "generate", "judge", "debias", "report", "total"}
    assert set(r["seconds"]) == stages
    assert r["unet_evaluations_per_image"] > 4
    assert (tmp_path / "ws" / "demo" / "report" / "report.html").is_file()
