"""The files of predictions: which columns or arrays of a CSV, npz or parquet file say what, and their rows."""

from __future__ import annotations

import csv
import importlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debias_core.data.importing import limits
from debias_core.data.importing.csv_file import encoding_of
from debias_core.data.importing.limits import amount, shown
from debias_core.data.importing.matching import match_classes, names_in_words, plain_name
from debias_core.data.importing.npy_file import read_npz
from debias_core.records import UserError

Floats = NDArray[np.float64]
IDS = ("id", "ids", "path", "paths", "sample id", "image id", "filename", "file name", "file", "files", "image",
       "name", "names", "")  # what a column of ids may be called, the first that is there  # fmt: skip
NAMED = ("pred", "predicted", "prediction", "label", "labels")
LOSS = ("loss", "losses")
MATRICES = {
    "probabilities": "probabilities",
    "probs": "probabilities",
    "p": "probabilities",
    "logits": "logits",
}
PYARROW = (14, 0, 1)  # earlier ones unpickle what a file asks them to


@dataclass(frozen=True)
class Brought:
    """The rows of a file: `ids` [M], and `values` [M, C] of `kind` or, for label and loss, `pred` and `loss` [M].

    `columns` are what the file calls the classes, `by_name` whether that is how they were matched; `kind` is
    "" while only the values tell.
    """

    ids: list[str]
    columns: tuple[str, ...]
    by_name: bool
    kind: str = ""
    values: Floats | None = None
    pred: list[str] | None = None
    loss: Floats | None = None


@dataclass(frozen=True)
class _Plan:
    """Which columns count: the ids, and those of the classes, or of label and loss."""

    ids: int
    classes: tuple[int, ...] = ()
    by_name: bool = True
    pred: int = -1
    loss: int = -1


def _plan(names: Sequence[str], class_names: Sequence[str], where: str) -> _Plan:
    """What the columns of these names are.

    Raises:
        UserError: when there are no ids, or neither classes nor label and loss.
    """
    plain = [plain_name(name) for name in names]
    ids = next(
        (plain.index(n) for n in IDS if n in plain and names[plain.index(n)] not in class_names), -1
    )
    if ids < 0:
        raise UserError(
            f"{where} has no column id or path, which says whose row it is. It has: "
            f"{names_in_words(names)}."
        )
    pred = next((plain.index(n) for n in NAMED if n in plain), -1)
    loss = next((plain.index(n) for n in LOSS if n in plain), -1)
    rest = [name if i != ids else "" for i, name in enumerate(names)]
    try:
        classes, by_name = match_classes(rest, class_names, ("", *NAMED, *LOSS, "split", "bias"))
    except UserError:
        if pred < 0 or loss < 0:
            raise
        return _Plan(ids, pred=pred, loss=loss)
    return _Plan(ids, classes, by_name)


def _from_csv(path: Path, class_names: Sequence[str]) -> Brought:
    if path.stat().st_size > limits.MAX_CSV_BYTES:
        raise UserError(
            f"{shown(path.name)} is larger than {amount(limits.MAX_CSV_BYTES)}: bring an .npz instead."
        )
    encoding = encoding_of(path)
    try:
        with path.open(encoding=encoding, newline="") as handle:
            header = handle.readline(1 << 16)
        with path.open(encoding=encoding, newline="") as handle:
            delimiter = max(",;\t", key=header.count)
            rows = csv.reader(handle, delimiter=delimiter, skipinitialspace=True)
            names = [name.strip() for name in next(rows, [])]
            return _rows(rows, names, _plan(names, class_names, shown(path.name)), delimiter == ";")
    except UnicodeError:
        raise UserError(f"{shown(path.name)} is not UTF-8 text: save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{shown(path.name)} can't be read as a CSV: {error}.") from None


def _rows(rows: Any, names: list[str], plan: _Plan, comma: bool) -> Brought:
    """The rows of an open CSV; `comma`: a decimal comma is one, since something else parts the columns."""
    ids: list[str] = []
    pred: list[str] = []
    numbers = array("d")
    wanted = plan.classes or (plan.loss,)
    most = max(plan.ids, plan.pred, *wanted)
    for row in rows:
        if not row:
            continue
        line = f"Line {rows.line_num}"
        if len(row) <= most:
            raise UserError(f"{line} has {len(row)} cells, but the first line has {len(names)}.")
        if len(row[plan.ids]) > limits.MAX_NAME or "\0" in row[plan.ids]:
            raise UserError(
                f"{line} has an id with a NUL or of more than {limits.MAX_NAME} characters."
            )
        if len(ids) == limits.MAX_ENTRIES:
            raise UserError(f"At most {limits.MAX_ENTRIES:,} rows are read: split the file.")
        for i in wanted:
            cell = row[i].replace(",", ".") if comma else row[i]
            try:
                numbers.append(float(cell))
            except ValueError:
                raise UserError(
                    f"{line} has {shown(cell)[:40]!r} for '{shown(names[i])}', which is no number: write it as "
                    "0.25; a formula is not computed."
                ) from None
        ids.append(row[plan.ids].strip())
        if plan.pred >= 0:
            pred.append(row[plan.pred].strip())
    values = np.frombuffer(numbers, dtype=np.float64) if numbers else np.empty(0)
    return _brought(ids, plan, names, values.reshape(len(ids), len(wanted)), pred)


def _brought(
    ids: list[str], plan: _Plan, names: Sequence[str], numbers: Floats, pred: list[str]
) -> Brought:
    if not plan.classes:
        return Brought(ids, (names[plan.pred],), True, pred=pred, loss=numbers[:, 0])
    columns = tuple(names[i] for i in plan.classes)
    return Brought(ids, columns, plan.by_name, values=numbers)


def _from_parquet(path: Path, class_names: Sequence[str]) -> Brought:
    try:
        parquet, arrow = (
            importlib.import_module("pyarrow.parquet"),
            importlib.import_module("pyarrow"),
        )
    except ImportError:
        raise UserError(
            "Parquet is read by pyarrow, which is not installed: `pip install pyarrow`, or save the file as CSV."
        ) from None
    if tuple(int(n) for n in arrow.__version__.split(".")[:3]) < PYARROW:
        raise UserError("This pyarrow unpickles what a file asks it to: `pip install -U pyarrow`.")
    try:
        with parquet.ParquetFile(path) as table:
            about = table.metadata
            size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            if about.num_rows > limits.MAX_ENTRIES or size > limits.MAX_UNPACKED_BYTES:
                raise UserError(
                    f"{shown(path.name)} holds more than {limits.MAX_ENTRIES:,} rows or "
                    f"{amount(limits.MAX_UNPACKED_BYTES)}: split it."
                )
            names = list(table.schema_arrow.names)
            plan = _plan(names, class_names, shown(path.name))
            wanted = plan.classes or (plan.loss,)

            def column(i: int) -> list[Any]:
                return table.read(columns=[names[i]]).column(0).to_pylist()

            ids = [str(v) for v in column(plan.ids)]
            nan = float("nan")
            numbers = np.array(
                [[nan if v is None else float(v) for v in column(i)] for i in wanted]
            )
            pred = [str(v) for v in column(plan.pred)] if plan.pred >= 0 else []
    except UserError:
        raise
    except Exception as error:  # a hostile file raises nearly anything
        raise UserError(
            f"{shown(path.name)} can't be read as parquet ({type(error).__name__}): save it anew."
        ) from None
    return _brought(ids, plan, names, numbers.T.reshape(len(ids), len(wanted)), pred)


def _from_npz(path: Path, class_names: Sequence[str]) -> Brought:
    arrays = {plain_name(name): a for name, a in read_npz(path).items()}
    there = names_in_words(sorted(arrays)) or "nothing"
    ids = next((arrays[n] for n in IDS if n in arrays), None)
    if ids is None:
        raise UserError(
            f"{shown(path.name)} has no array ids, which says whose row each is. It has: {there}."
        )
    names = texts_of(ids, shown(path.name))
    # Label and loss, or a matrix.
    matrix = next((n for n in MATRICES if n in arrays), None)
    if matrix is None:
        pred, loss = (next((arrays[n] for n in of if n in arrays), None) for of in (NAMED, LOSS))
        if pred is None or loss is None or pred.shape != ids.shape or loss.shape != ids.shape:
            raise UserError(
                f"{shown(path.name)} has no array probabilities or logits [images, classes], nor pred and loss, one "
                f"for each id. It has: {there}."
            )
        words = texts_of(pred, shown(path.name))
        return Brought(names, ("pred",), True, pred=words, loss=_numbers(loss, "loss"))
    values = _numbers(arrays[matrix], matrix)
    if values.shape != (len(names), len(class_names)):
        raise UserError(
            f"{matrix} in {shown(path.name)} is {values.shape}, but must be ({len(names)}, {len(class_names)}): a row "
            "for each id, a column for each class."
        )
    # The columns are in the order of the file's classes, or else of the project's.
    if "classes" not in arrays:
        return Brought(
            names, tuple(map(str, range(values.shape[1]))), False, MATRICES[matrix], values
        )
    columns = texts_of(arrays["classes"], shown(path.name))
    order, by_name = match_classes(columns, class_names)
    if len(columns) != values.shape[1]:
        raise UserError(
            f"{shown(path.name)} names {len(columns)} classes for {values.shape[1]} columns."
        )
    ordered = values[:, list(order)]
    return Brought(names, tuple(columns[i] for i in order), by_name, MATRICES[matrix], ordered)


def texts_of(values: NDArray[Any], where: str) -> list[str]:
    """An array [M] of text or whole numbers as texts.

    Raises:
        UserError: for any other, or more or longer texts than are read.
    """
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise UserError(f"Ids and names in {where} must be one row of text or whole numbers.")
    if len(values) > limits.MAX_ENTRIES:
        raise UserError(f"At most {limits.MAX_ENTRIES:,} rows are read: split {where}.")
    if values.dtype.kind == "S":
        return [v.decode("utf-8", "backslashreplace") for v in values.tolist()]
    return [str(v) for v in values.tolist()]


def _numbers(values: NDArray[Any], name: str) -> Floats:
    if values.dtype.kind not in "fiu":
        raise UserError(f"{name} must hold numbers, but holds {values.dtype}.")
    return values.astype(np.float64)


READERS: dict[str, Callable[[Path, Sequence[str]], Brought]] = {
    ".csv": _from_csv,
    ".tsv": _from_csv,
    ".npz": _from_npz,
    ".parquet": _from_parquet,
}
