"""What a person's own classifier says of a project's images: a CSV, npz or parquet file, checked before it counts.

Notation:
    p      probabilities, a row for an image               [M, C]
    z      logits, of which p is the softmax               [M, C]
    y      the project's labels                            [M]
    loss   CE: -log p_y, or log Σ_c exp(z_c) - z_y         [M]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debias_core.data.importing.limits import shown
from debias_core.data.importing.matching import match_ids, names_in_words, plain_name
from debias_core.data.importing.prediction_files import READERS, Brought
from debias_core.data.table import ImageTable
from debias_core.records import Scores, UserError

Floats = NDArray[np.float64]
KINDS = ("probabilities", "logits", "label and loss")
OFF = 0.02  # how far from one a row of rounded probabilities may sum
ROUNDED = 1e-6  # how far outside 0 to 1 a probability in single precision may lie
LEAST = 1e-38  # what a probability of zero counts as: its loss is 87, and not infinite


@dataclass(frozen=True)
class Predictions:
    """What was understood: `loss`, `p_true` and `pred` [M] of the images at `at` [M] in the project's table.

    `classes` are pairs of the file's column and the project's class; `ids_by` says how the ids were matched.
    """

    at: NDArray[np.int64]
    loss: Floats
    p_true: Floats
    pred: NDArray[np.int64]
    kind: str
    classes: tuple[tuple[str, str], ...]
    by_name: bool
    ids_by: str

    def of(self, table: ImageTable, split: str) -> Scores | None:
        """The scores of a part's images, in the table's order; None where one of them has no prediction."""
        rows = np.full(len(table), -1, dtype=np.int64)
        rows[self.at] = np.arange(len(self.at))
        rows = rows[table.split == split]
        if (rows < 0).any():
            return None
        loss, p = self.loss[rows].astype(np.float32), self.p_true[rows].astype(np.float32)
        return Scores(table.ids[table.split == split], loss, p, self.pred[rows])


def read_predictions(path: Path, table: ImageTable) -> Predictions:
    """The file's predictions of the table's images, every row of them checked.

    Every training image needs one; those of valid and test may be left out.

    Raises:
        UserError: names the first row or column that can't be understood, and what to do.
    """
    if path.suffix.lower() not in READERS:
        raise UserError(
            f"{shown(path.name)} is no table of predictions: bring a .csv, .npz or .parquet."
        )
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    brought = READERS[path.suffix.lower()](path, table.class_names)
    if not brought.ids:
        raise UserError(f"{shown(path.name)} has no rows.")
    # Which images they are of.
    at, ids_by = match_ids(brought.ids, table)
    lacks = (table.split == "train") & ~np.isin(np.arange(len(table)), at)
    if lacks.any():
        raise UserError(
            f"{int(lacks.sum()):,} of {int((table.split == 'train').sum()):,} training images have no row in "
            f"{shown(path.name)}; the first is '{shown(str(table.ids[lacks.argmax()]))}'."
        )
    # What it says of them.
    y, named = table.y[at], tuple(zip(brought.columns, table.class_names, strict=False))
    if brought.values is None:
        loss, pred = _label_and_loss(brought, y, table.class_names)
        kind, p = KINDS[2], np.exp(-loss)
    else:
        kind = _kind(brought)
        loss = cross_entropy(brought.values, y, kind)
        pred, p = brought.values.argmax(1), np.exp(-loss)
    return Predictions(at, loss, p, pred, kind, named, brought.by_name, ids_by)


def cross_entropy(values: Floats, y: NDArray[np.int64], kind: str) -> Floats:
    """CE [M] of probabilities or logits [M, C] for the labels y [M]."""
    of_label = values[np.arange(len(y)), y]
    if kind == "probabilities":
        return 0.0 - np.log(of_label.clip(LEAST, 1.0))
    top = values.max(1)
    return np.log(np.exp(values - top[:, None]).sum(1)) + top - of_label


def _kind(brought: Brought) -> str:
    """Whether the values are probabilities or logits.

    Raises:
        UserError: for what is no number, or neither of the two.
    """
    assert brought.values is not None
    values, ids = brought.values, brought.ids
    finite = np.isfinite(values).all(1)
    if not finite.all():
        i = int(finite.argmin())
        column = brought.columns[int(np.isfinite(values[i]).argmin())]
        raise UserError(
            f"The row of '{shown(ids[i])}' has no finite number for '{shown(column)}': leave no cell empty, NaN "
            "or infinite."
        )
    inside, total = ((values >= -ROUNDED) & (values <= 1 + ROUNDED)).all(1), values.sum(1)
    proper = inside & (np.abs(total - 1) <= OFF)
    if proper.all() and brought.kind != "logits":
        return KINDS[0]
    # Logits lie on both sides of 0 and 1 in nearly every row; a sum of one is then chance.
    if brought.kind == "logits" or (not brought.kind and not inside.all() and proper.mean() < 0.5):
        return KINDS[1]
    i = int(proper.argmin())
    raise UserError(
        f"The row of '{shown(ids[i])}' sums to {total[i]:.4g}, so that it is no probabilities, and the file does "
        "not look like logits either: give the softmax of every image, or its logits."
    )


def _label_and_loss(
    brought: Brought, y: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[Floats, NDArray[np.int64]]:
    """The loss and the class that was predicted.

    Raises:
        UserError: for a class that is not the project's, or a loss that can't be one.
    """
    assert brought.loss is not None and brought.pred is not None
    loss = brought.loss
    fine = np.isfinite(loss) & (loss >= 0)
    if not fine.all():
        i = int(fine.argmin())
        raise UserError(
            f"The row of '{shown(brought.ids[i])}' has the loss {loss[i]:g}: a cross-entropy is a finite number, "
            "0 or more."
        )
    # By name, or else by number.
    known: dict[str, int] = {plain_name(c): i for i, c in enumerate(class_names)}
    known |= {c: i for i, c in enumerate(class_names)}
    numbers = {str(i): i for i in range(len(class_names))}
    words = dict.fromkeys(brought.pred)
    if not any(w in known or plain_name(w) in known for w in words):
        known = numbers
    index = {w: known.get(w, known.get(plain_name(w), -1)) for w in words}
    strange = next((w for w, i in index.items() if i < 0), None)
    if strange is not None:
        raise UserError(
            f"'{shown(strange)}' is none of the project's classes ({names_in_words(class_names)}): name "
            "what your model predicts as the project does."
        )
    pred = np.array([index[w] for w in brought.pred], dtype=np.int64)
    # Below 1 in C for the label, another class must have more.
    impossible = (pred == y) & (loss > np.log(len(class_names)) + 1e-6)
    if impossible.any():
        i = int(impossible.argmax())
        raise UserError(
            f"The row of '{shown(brought.ids[i])}' predicts the image's own label at a loss of {loss[i]:.3g}, which "
            "no softmax does: the column must hold what your model predicts, not the label that was given."
        )
    return loss, pred
