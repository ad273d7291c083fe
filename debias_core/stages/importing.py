"""How images come into a project: a person's files, a published or a named data set, a planted bias.

What comes in is made beside what is there, and takes its place when it is whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from debias_core.data.catalog import BROUGHT, is_brought, made_here, spread_in_words
from debias_core.data.importing import finding
from debias_core.data.importing.importers import import_images
from debias_core.data.making.named import named_table, plant_bias
from debias_core.data.making.planted import on_black
from debias_core.data.table import ImageTable, save_table
from debias_core.records import ImportReport, Progress, Refusal, Stage, UserError
from debias_core.workspace.files import fingerprint, linked, turn, write_json
from debias_core.workspace.project import Project


def import_data(
    project: Project,
    source: Path,
    *,
    size: int,
    limit: int | None,
    seed: int,
    replace: bool,
    percent: float | None = None,
) -> Stage[ImportReport]:
    """Import a folder, zip or CSV into a new project (or, with `replace`, anew into an old one).

    Of an official layout with several training sets that at `percent`.
    """
    if project.has("data") and not replace:
        raise UserError(
            f"Project '{project.name}' exists already: choose another --name, or add --replace to "
            "drop it and everything made in it."
        )
    source = source.resolve()
    # Swapped in when it is whole: a failed import costs nothing, and one that was stopped or killed goes on.
    folder = project.incoming / "data"
    try:
        _, report = yield from import_images(
            source, folder, size=size, limit=limit, seed=seed, percent=percent, resume=True
        )
    except UserError:
        shutil.rmtree(project.incoming, ignore_errors=True)
        raise
    write_json(folder / "import.json", report.to_json())
    about = {"kind": "files", "path": str(source), "size": size, "limit": limit, "seed": seed}
    project.arrive(about if percent is None else {**about, "percent": percent})
    return report


def import_published(
    project: Project, name: str, *, percent: float | None, size: int, validation: bool = False
) -> Stage[ImportReport]:
    """Put a published data set (`catalog.BROUGHT`) into a project, in place of what it held.

    It is decoded once for all projects of the workspace: the pixels' file is one, with several names.

    Raises:
        UserError: when it is nowhere; it says where to get it and how the folder must look.
    """
    root = finding.find(name, percent)
    source = published_source(name, percent=percent, size=size, validation=validation)
    kept = project.workspace / ".data" / f"{name}-{fingerprint(source, str(root))}"
    with (yield from turn(kept.with_suffix(".lock"), "import")):
        if not (kept / "import.json").is_file():
            table, report = yield from import_images(
                root,
                kept,
                size=size,
                percent=percent,
                name=name,
                validation=validation,
                resume=True,
            )
            said = f"The test part: {BROUGHT[name].test}, {(table.split == 'test').sum():,} images."
            if validation:
                said = (
                    f"{(table.split == 'test').sum():,} images that are no part of the test part."
                )
            write_json(kept / "import.json", {**report.to_json(), "split_rule": said})
    # A large set has a folder among its files (`columns/`).
    folder = _emptied(project.incoming) / "data"
    shutil.copytree(kept, folder, copy_function=linked)
    project.arrive(source)
    about = project.import_report()
    refused = tuple(Refusal(r["name"], r["reason"]) for r in about["refused"])
    return ImportReport(about["accepted"], refused, about["classes"], about["split_rule"])


def published_source(
    name: str, *, percent: float | None, size: int, validation: bool
) -> dict[str, Any]:
    """What a project is told of where its published data came from."""
    return {"kind": name, "percent": percent, "size": size, "validation": validation}


def import_job(project: Project, args: dict[str, Any]) -> Stage[ImportReport | None]:
    """The import that a job's arguments describe; None when it was killed after its last step.

    Raises:
        UserError: when there is other data in the project by now, and the job is none that replaces it.
    """
    source, report = args["source"], None
    if not project.has("data") or project.source() != _registered(source):
        if project.has("data") and not args["replace"]:
            raise UserError(
                f"Project '{project.name}' has other images by now: import these under another name."
            )
        report = yield from _bring(project, source, replace=args["replace"])
    if args.get("upload"):
        Path(source["path"]).unlink(missing_ok=True)
    return report


def _registered(source: dict[str, Any]) -> dict[str, Any]:
    """A job's source as the project will have it."""
    kind = source["kind"]
    if made_here(kind):
        return named_source(kind, percent=source["percent"], seed=0, validation=False)
    if is_brought(kind):
        return published_source(
            kind, percent=source["percent"], size=source["size"], validation=False
        )
    return source


def _bring(project: Project, source: dict[str, Any], *, replace: bool) -> Stage[ImportReport]:
    kind = source["kind"]
    if made_here(kind):
        yield Progress("import", 0, 1, "drawing the images")
        made = import_named(project, kind, percent=source["percent"], seed=0)
        yield Progress("import", 1, 1)
        return made
    if is_brought(kind):
        return (
            yield from import_published(
                project, kind, percent=source["percent"], size=source["size"]
            )
        )
    if kind == "planted":
        of = Project(project.workspace, source["of"])
        return (
            yield from run_plant(
                of, project, source["bias"], percent=source["percent"], seed=source["seed"]
            )
        )
    return (
        yield from import_data(
            project, Path(source["path"]),
            size=source["size"], limit=source["limit"], seed=source["seed"], replace=replace,
        )
    )  # fmt: skip


def import_named(
    project: Project,
    name: str,
    *,
    percent: float | None,
    seed: int,
    validation: bool = False,
    bias: str = "",
    hold_out: float = 0.0,
) -> ImportReport:
    """Put a named data set (`making.named.named_table`) into a project, in place of what it held."""
    if percent is None:
        raise UserError(f"Say with --ratio how many images of '{name}' break the bias.")
    table = named_table(name, percent, seed, validation=validation, bias=bias, hold_out=hold_out)
    held = int((table.split == "test").sum())
    part = f"{held:,} held-out training images" if validation else f"{held:,} images"
    source = named_source(
        name, percent=percent, seed=seed, validation=validation, bias=bias, hold_out=hold_out
    )
    return _arrive(project, table, source, f"{part}, {spread_in_words(name, bias)}")


def _arrive(
    project: Project, table: ImageTable, source: dict[str, Any], test_part: str
) -> ImportReport:
    """Put images that were made here into a project; `test_part` says what its unbiased test part is."""
    folder = _emptied(project.incoming) / "data"
    save_table(table, folder)
    report = ImportReport(
        accepted=len(table),
        refused=(),
        classes={c: int((table.y == i).sum()) for i, c in enumerate(table.class_names)},
        split_rule=f"The test part is unbiased: {test_part}.",
    )
    write_json(folder / "import.json", report.to_json())
    project.arrive(source)
    return report


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def named_source(
    name: str,
    *,
    percent: float | None,
    seed: int,
    validation: bool,
    bias: str = "",
    hold_out: float = 0.0,
) -> dict[str, Any]:
    """What a project is told of where its named data came from."""
    about: dict[str, Any] = {"kind": name, "percent": percent, "seed": seed}
    about["validation"] = validation
    # Without what was not asked for, as before there was any.
    return about | ({"bias": bias} if bias else {}) | ({"hold_out": hold_out} if hold_out else {})


def run_plant(
    project: Project, new: Project, bias: str, *, percent: float, seed: int = 0
) -> Stage[ImportReport]:
    """Plant a bias into a project's images, into a new project; the attribute that it had is forgotten.

    Raises:
        UserError: when there is a project of that name, or the bias can't be planted.
    """
    if new.has("data"):
        raise UserError(f"There is a project '{new.name}' already: choose another name.")
    table = project.table()
    yield Progress("plant", 0, 1, bias)
    made = plant_bias(table, bias, percent, seed, on_black=on_black(table.pixels))
    source = {
        "kind": "planted", "of": project.name, "bias": bias, "percent": percent, "seed": seed
    }  # fmt: skip
    report = _arrive(new, made, source, f"its images have every {bias}, evenly over the classes")
    yield Progress("plant", 1, 1)
    return report
