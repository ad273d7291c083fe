"""What stands on no one's machine: GPUs of other makers, and systems without POSIX' own modules."""

import subprocess
import sys

import psutil  # noqa: F401  (which on Linux needs `resource` itself)
import pytest
import torch

from debias_core.compute import memory
from debias_core.compute.devices import gpus, has_fast_half, pick_device, pick_devices
from debias_core.diffusion.unet import half_pays
from debias_core.records import UserError
from tests.docs import ROOT, python_files

NAMES = [str(f.with_suffix("")).replace("/", ".").removesuffix(".__init__") for f in python_files()]
IMPORT_ALL = """
import importlib, sys
sys.modules |= {"fcntl": None, "resource": None}
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_is_imported_where_there_is_no_fcntl_and_no_resource():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, *NAMES],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def there(monkeypatch):
    def only(**counts):
        for kind in ("cuda", "xpu", "mps"):
            module, count = torch.get_device_module(kind), counts.get(kind, 0)
            monkeypatch.setattr(module, "is_available", lambda count=count: count > 0)
            monkeypatch.setattr(module, "device_count", lambda count=count: count)

    return only


@pytest.mark.parametrize(
    ("counts", "first", "names"),
    [
        ({}, "cpu", ()),
        ({"mps": 1}, "mps", ("mps",)),
        ({"xpu": 2, "mps": 1}, "xpu", ("xpu:0", "xpu:1")),
        ({"cuda": 1, "xpu": 2}, "cuda", ("cuda:0",)),
    ],
)
def test_gpus_are_found_whoever_made_them(there, counts, first, names):
    there(**counts)
    assert gpus() == names and pick_device().type == first
    assert tuple(map(str, pick_devices())) == (names or ("cpu",))
    for name in names:
        assert pick_devices(name) == (torch.device(name),)
    with pytest.raises(UserError, match="choose from " + ", ".join((*names, "cpu"))):
        pick_devices("cuda:7")


def test_an_apple_gpu_works_in_float32(there):
    there(mps=1)
    assert not has_fast_half(torch.device("mps")) and not half_pays(torch.device("mps"), 64)


@pytest.mark.parametrize(
    "text",
    [
        "MPS backend out of memory (MPS allocated: 9.00 GB, max allowed: 9.07 GB).",
        "Invalid buffer size: 12.00 GiB",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    ],
)
def test_their_words_for_no_memory_are_known(text):
    assert memory.is_out_of_memory(RuntimeError(text))


def test_a_process_has_a_peak_without_the_resource_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak(torch.device("cpu")) > 50 << 20
