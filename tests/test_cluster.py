"""Two Ray nodes on this machine make what one process makes; one may be killed, and none outlives its caller."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import app
from debias_core.compute import ray_team as clusters
from debias_core.compute import team
from debias_core.compute.team import Cluster, Work
from debias_core.diffusion.on_workers import generate_classes
from debias_core.diffusion.sink import InMemory
from debias_core.diffusion.unet import EpsilonNet, EvaluationCount
from debias_core.pipeline import drain, synthesise
from debias_core.records import StopAsked, UserError
from debias_core.settings.diffusion import DiffusionConfig
from debias_core.settings.injection import InjectConfig
from tests.conftest import CPU, TINY_UNET

ROOT = Path(__file__).resolve().parents[1]
NONE = np.array([], dtype=np.str_)
SWAPPED = DiffusionConfig(unet=TINY_UNET, swap=0.5)
STEPWISE = InjectConfig(
    method="crossinject", contents=10, count=81, steps=4, contents_per_original=2, batch_size=5
)
STORE = 100 << 20  # bytes of shared memory of a node


pytestmark = pytest.mark.usefixtures("one_thread", "small_grain")


def run(net, table, config, *, cluster=None, sink=None):
    return synthesise(net, SWAPPED, table, NONE, config, device=CPU, cluster=cluster, sink=sink)


def counts(sink):
    return sink.cost().encoded, sink.cost().decoded


_HERE = []


@pytest.fixture
def here(tiny_net, table):
    """STEPWISE made in this process, and what it cost: once for all tests."""
    if not _HERE:
        sink = InMemory()
        _HERE.append((drain(run(tiny_net, table, STEPWISE, sink=sink)), counts(sink)))
    return _HERE[0]


# ---- the work, whoever does it ----


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_makes_the_same_images(tiny_net, table, here, inline, workers):
    (one, cost), sink = here, InMemory()
    many = drain(run(tiny_net, table, STEPWISE, cluster=Cluster(workers=workers), sink=sink))
    assert np.array_equal(one.pixels, many.pixels) and one.origins == many.origins
    assert counts(sink) == cost and inline == [workers]


def test_images_of_classes_are_the_same_on_workers_and_go_on_where_they_stopped(inline):
    torch.manual_seed(0)
    unet = replace(TINY_UNET, classes=3)
    net = EpsilonNet(unet).eval().requires_grad_(False)
    labels = [i % 3 for i in range(11)]

    def drawn(cluster, first=0):
        net.count = EvaluationCount()
        made = generate_classes(
            net, DiffusionConfig(unet=unet), labels, w=1.0, steps=4, seed=3, half=False,
            image_size=8, batch_size=2, device=CPU, cluster=cluster, first=first,
        )  # fmt: skip
        parts = [part for ready in made for part in ready.parts]
        assert [start for start, _ in parts] == list(range(first, 11, 4))
        return np.concatenate([images for _, images in parts]), net.count.encoded

    one, evaluated = drawn(None)
    many, as_often = drawn(Cluster(workers=3))
    assert np.array_equal(one, many) and evaluated == as_often > 0
    assert np.array_equal(drawn(Cluster(workers=2), first=4)[0], one[4:])


def test_all_that_a_dead_worker_had_is_given_to_another_once(monkeypatch):
    class Gone(Exception):
        pass

    class Ray:  # whose every answer is there, and "dead" is the sign of a worker that is not
        exceptions = type("exceptions", (), {"RayError": Gone})

        def wait(self, refs, **_):
            return list(refs), []

        def get(self, ref):
            if ref[0] == "dead":
                raise Gone("killed")
            return {"of": ref[1]}, team.as_bytes({})

        def kill(self, _):
            pass

    class Handle:
        def __init__(self, name):
            self.do = self
            self.remote = lambda about, _: (name, about["task"])

    crew = object.__new__(clusters.Actors)
    vars(crew).update(
        _ray=Ray(), size=2, _under_way={}, _given={}, _again=clusters.deque(), _deaths={}, _lost=0,
        _stillborn=0, _alone_since=0.0, _team=[clusters.Actor(Handle("dead"), None)],
    )  # fmt: skip
    monkeypatch.setattr(crew, "_start", lambda: None)
    for number in (0, 1):
        crew.give(number, team.message({"task": number}))
    crew._team.append(clusters.Actor(Handle("well"), None))
    assert crew.finished(1.0) == [] and "1 lost" in crew.note()
    assert [(n, about["of"]) for n, (about, _) in crew.finished(1.0)] == [(0, 0), (1, 1)]


# ---- without a cluster ----


def test_without_ray_it_is_said_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    find = clusters.importlib.util.find_spec
    monkeypatch.setattr(
        clusters.importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    for command in (["generate"], ["describe"], ["draw"], ["amplify"], ["benchmark", "digits"]):
        assert app.main([*command, "--cluster", "auto", "--workspace", str(tmp_path)]) == 2
        assert "pip install ray" in capsys.readouterr().err, command
    with pytest.raises(UserError, match="pip install ray"), clusters.connected(Cluster()):
        pass


def test_an_address_that_is_none_and_devices_beside_a_cluster_are_refused(capsys, tmp_path):
    pytest.importorskip("ray")
    for text in ("banana", "http://10.0.0.1:6379", "head:port", "--address"):
        with pytest.raises(UserError, match=r"10\.0\.0\.1:6379, not"):
            clusters.chosen(text)
    assert clusters.chosen("[::1]:6379") == Cluster("[::1]:6379")
    command = ["generate", "--devices", "cpu", "--cluster", "auto", "--workspace", str(tmp_path)]
    assert app.main(command) == 2
    assert "not both" in capsys.readouterr().err


# ---- on two nodes ----


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A cluster of two nodes with one core each, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="Ray is optional: pip install ray")
    from ray.cluster_utils import Cluster as Nodes

    # The nodes inherit it: what the workers keep of the app goes with the tests.
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": STORE}
    head = {**node, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    nodes.add_node(**node)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    del os.environ["XDG_CACHE_HOME"]


def actors_alive():
    """Processes on this machine whose title says that they are one of our actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:  # ended while we looked
            continue
        if title.startswith(b"ray::Host"):
            found.append(int(path.parent.name))
    return found


def until(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_node_killed_half_way_costs_time_alone(tiny_net, table, here, two_nodes, monkeypatch):
    (one, cost), sink, met, notes = here, InMemory(), [], []
    free = clusters.Actors.free

    def together(self):
        """Nothing is handed out before both have begun: on a busy machine one could do it all by then."""
        if self._begun() == 2:
            met[:] = [True]
        return bool(met) and free(self)

    monkeypatch.setattr(clusters.Actors, "free", together)
    stage, second = run(tiny_net, table, STEPWISE, cluster=Cluster(), sink=sink), None
    while True:
        try:
            p = next(stage)
        except StopIteration as end:
            two = end.value
            break
        notes.append(p.note)
        if second is None and 0 < p.done < 50:
            second = next(n for n in two_nodes.list_all_nodes() if n is not two_nodes.head_node)
            two_nodes.remove_node(second, allow_graceful=False)
    assert second is not None and any("1 of 2 workers, 1 lost" in note for note in notes), notes
    assert np.array_equal(one.pixels, two.pixels) and one.origins == two.origins
    assert counts(sink) == cost
    two_nodes.add_node(num_cpus=1, object_store_memory=STORE)
    until(lambda: not actors_alive())


def test_a_run_on_a_cluster_that_is_stopped_goes_on_here(tiny_net, table, here, two_nodes):
    (one, _), sink = here, InMemory()
    stage = run(tiny_net, table, STEPWISE, cluster=Cluster(workers=1), sink=sink)
    while (p := next(stage)).done == 0:
        pass
    with pytest.raises(StopIteration) as end:
        stage.throw(StopAsked())
    kept = end.value.value
    assert 0 < p.done == len(kept.origins) == sink.finished() < STEPWISE.count
    assert np.array_equal(kept.pixels, one.pixels[: p.done])
    until(lambda: not actors_alive())
    assert np.array_equal(drain(run(tiny_net, table, STEPWISE, sink=sink)).pixels, one.pixels)


def test_what_fails_on_a_worker_is_told_once_and_in_words(two_nodes):
    work = Work("debias_core.diffusion.on_workers:make_pairs", ({}, team.as_bytes({})))
    hired = clusters.actors(work, Cluster(workers=1), most=1)
    with pytest.raises(UserError, match=r"The worker on .* failed \(KeyError"), hired as workers:
        list(team.in_order(workers, iter([team.message({})])))


CALLER = """
import sys
from debias_core.compute import team
from debias_core.compute.ray_team import actors

work = team.Work("builtins:print", ({}, team.as_bytes({})))
with actors(work, team.Cluster(sys.argv[1], workers=1), most=1) as workers:
    while workers.note():
        workers.finished(1.0)
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_workers_end_with_a_caller_that_is_killed(two_nodes):
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, two_nodes.address],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with caller:
        # Not at once: Ray may first tell of the node that a test before killed.
        assert "begun\n" in caller.stdout
        assert len(actors_alive()) == 1
        caller.kill()
    until(lambda: not actors_alive())
