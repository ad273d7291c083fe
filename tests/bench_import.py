"""How fast an import is, and how much memory it takes: `python tests/bench_import.py [--count 10000]`.

Makes its own images (crops of scikit-learn's two photographs with noise, every other one a PNG),
imports them from a folder and from a zip, each in a fresh process, and removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parents[1]

CHILD = """
import json, re, sys, time
def peak():
    # ru_maxrss would bring along the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
{extra}
from pathlib import Path
from debias_core.data.importing.importers import import_images
from debias_core.data.importing.survey import survey
source, target, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
before = peak()
t = time.perf_counter()
looked = survey(source)
survey_seconds = time.perf_counter() - t
t = last = time.perf_counter()
silence, stage = 0.0, import_images(source, target, size=size)
while True:
    try:
        next(stage)
    except StopIteration as end:
        table, report = end.value
        break
    finally:
        silence, last = max(silence, time.perf_counter() - last), time.perf_counter()
seconds = time.perf_counter() - t
print(json.dumps(dict(images=report.accepted, refused=len(report.refused), seconds=seconds,
    survey=survey_seconds, before=before, peak=peak(), silence=silence, id=table.data_id)))
"""


def make(root: Path, count: int, width: int, height: int, kinds: tuple[str, ...]) -> None:
    """`count` noisy crops in two class folders, the kinds by turns."""
    rng = np.random.default_rng(0)
    photographs = [np.asarray(p) for p in load_sample_images().images]  # 427 x 640
    noise = rng.integers(-12, 13, (64, height, width, 3), dtype=np.int16)
    for i in range(count):
        photograph = photographs[i % 2]
        side = min(height, photograph.shape[0]), min(width, photograph.shape[1])
        top = rng.integers(photograph.shape[0] - side[0] + 1)
        left = rng.integers(photograph.shape[1] - side[1] + 1)
        crop = Image.fromarray(photograph[top : top + side[0], left : left + side[1]])
        if crop.size != (width, height):
            crop = crop.resize((width, height))
        pixels = (np.asarray(crop) + noise[i % 64]).clip(0, 255).astype(np.uint8)
        kind = kinds[i // 2 % len(kinds)]
        folder = root / ("china", "flower")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        options = {"quality": 90} if kind == "jpg" else {"compress_level": 1}
        Image.fromarray(pixels).save(folder / f"{i:06d}.{kind}", **options)


def measure(source: Path, scratch: Path, size: int, extra: str) -> dict[str, float]:
    """One import in a process of its own."""
    target = Path(tempfile.mkdtemp(dir=scratch))
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(extra=extra), str(source), str(target), str(size)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Make, measure, print, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--source-size", default="128x128", help="of the files, e.g. 500x375")
    parser.add_argument("--size", type=int, default=128, help="of the imported images")
    parser.add_argument("--kinds", default="jpg,png", help="jpg, png, webp, bmp, by turns")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--with-torch", action="store_true", help="as the app's own process")
    args = parser.parse_args()
    width, height = map(int, args.source_size.split("x"))
    extra = "import debias_core.stages.audit" if args.with_torch else ""
    with tempfile.TemporaryDirectory(prefix="bench-import-", dir="/tmp") as name:
        scratch = Path(name)
        began = time.perf_counter()
        make(scratch / "in", args.count, width, height, tuple(args.kinds.split(",")))
        archive = scratch / "in.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
            for path in sorted((scratch / "in").rglob("*.*")):
                out.write(path, path.relative_to(scratch / "in").as_posix())
        print(
            f"{args.count:,} images of {width}x{height} ({args.kinds}) → {args.size} px, "
            f"{archive.stat().st_size >> 20} MB, made in {time.perf_counter() - began:.0f} s; "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        for _ in range(args.repeat):
            for kind, source in (("folder", scratch / "in"), ("zip", archive)):
                r = measure(source, scratch, args.size, extra)
                print(
                    f"{kind:7}{r['images'] / r['seconds']:8,.0f} images/s in {r['seconds']:.1f} s; "
                    f"peak RSS {r['peak'] / 2**20:,.0f} MB ({r['before'] / 2**20:,.0f} MB before); "
                    f"survey {r['survey']:.2f} s; longest silence {r['silence']:.2f} s; id {r['id']}"
                )


if __name__ == "__main__":
    main()
