"""Energy: a run of known length, by stage, in the database, also of a run that is killed."""

from __future__ import annotations

import time

import pytest

from debias_core.data.table import save_table
from debias_core.insight import energy
from debias_core.pipeline import drain
from debias_core.records import Progress, StopAsked, UserError
from debias_core.workspace import energy_log
from debias_core.workspace.project import Project


@pytest.fixture
def project(table, tmp_path):
    p = Project(tmp_path / "ws", "p")
    save_table(table, p.folder("data"))
    return p


def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def test_energy_is_power_times_the_time_that_the_work_took():
    meter = energy.Meter()
    busy(6)
    early = meter.so_far()
    busy(2)
    spent = meter.stop()
    assert 7.9 < spent.seconds < 20
    assert early.kwh is not None and spent.kwh > early.kwh > 0
    # From an idle laptop's few watts to a server that is full of GPUs.
    print(f"{spent.watts:.1f} W")
    assert 1 < spent.watts < 10_000
    assert spent.kwh == pytest.approx(spent.watts * spent.seconds / 3.6e6)


def test_each_run_of_a_stage_is_written_down_however_it_ends(project, monkeypatch):
    class Clockwork:
        """1 Wh at every look."""

        def so_far(self):
            return energy.Energy(1e-3, 1.0)

        def stop(self):
            return energy.Energy(2e-3, 2.0)

    monkeypatch.setattr(energy_log, "Meter", Clockwork)

    @energy_log.metered("generate")
    def stage(project, n):
        for i in range(n):
            try:
                yield Progress("generate", i, n)
            except StopAsked:
                return "kept"
        if n == 3:
            raise ValueError("broken")
        return "whole"

    assert drain(stage(project, 2)) == "whole"
    stopped = stage(project, 5)
    next(stopped)
    with pytest.raises(StopIteration) as end:
        stopped.throw(StopAsked())
    assert end.value.value == "kept"
    with pytest.raises(ValueError, match="broken"):
        drain(stage(project, 3))
    # Killed: what was noted last is what stays.
    monkeypatch.setattr(energy_log, "NOTE_SECONDS", -1.0)
    killed = stage(project, 5)
    next(killed), next(killed)
    (found,) = energy_log.energy_by_stage(project)
    assert (found.stage, found.runs, found.kwh) == ("generate", 4, pytest.approx(7e-3))
    assert found.grams == pytest.approx(7e-3 * 475)
    killed.close()
    monkeypatch.setenv("DEBIAS_CARBON_INTENSITY", "50")
    assert energy_log.energy_by_stage(project)[0].grams == pytest.approx(8e-3 * 50)
    assert energy_log.to_json(project)["kwh"] == pytest.approx(8e-3)


def test_the_power_that_long_runs_had_is_what_is_predicted_with(project):
    assert energy_log.usual_watts(project.db) == (energy_log.ASSUMED_WATTS, False)
    for kwh, seconds in ((1e-3, 60.0), (None, 60.0), (5.0, 2.0)):
        project.db.write(
            "INSERT INTO energy (project, data_id, stage, kwh, seconds, began)"
            " VALUES ('p', '', 'audit', ?, ?, 0)",
            (kwh, seconds),
        )
    watts, measured = energy_log.usual_watts(project.db)
    assert measured and watts == pytest.approx(60.0)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "3000"])
def test_an_intensity_that_is_none_is_told(text, monkeypatch):
    monkeypatch.setenv("DEBIAS_CARBON_INTENSITY", text)
    with pytest.raises(UserError, match="g/kWh"):
        energy.intensity()
