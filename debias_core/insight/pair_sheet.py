"""The sheet of all pairs: a row for each label, a column for each class that the shortcut says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from debias_core.data.images import Pixels, enlarge
from debias_core.data.table import ImageTable
from debias_core.records import Origin

MOST = 20  # classes in a sheet
SIDE = 48  # pixels of an image in it, at least
EMPTY = np.array([238, 238, 238], dtype=np.uint8)


def pair_sheet(train: ImageTable, pixels: Pixels, origins: Sequence[Origin]) -> Pixels:
    """uint8 [H, W, 3]: the first image of each pair (label, `taken_for`) of recomposed images [M, h, w, 3].

    On the diagonal, framed, stands a training image of each class that goes with its shortcut; a pair that is
    not there yet is grey. Of more than MOST classes the first are shown.
    """
    # Which picture stands where.
    n = min(len(train.class_names), MOST)
    first: dict[tuple[int, int], Pixels] = {}
    usual: dict[int, str] = {}
    for i, r in enumerate(origins):
        first.setdefault((r.label, r.taken_for), pixels[i])
        usual.setdefault(r.label, r.content_id)
    diagonal = {c: train.pixels[train.positions([usual[c]])[0]] for c in usual}
    side = len(enlarge(np.zeros((train.image_size, 1, 3), np.uint8), SIDE))
    return _drawn(train.class_names[:n], first, diagonal, side)


def _drawn(
    names: Sequence[str],
    pairs: Mapping[tuple[int, int], Pixels],
    diagonal: Mapping[int, Pixels],
    side: int,
) -> Pixels:
    """The pictures in their places, the names at the left and, turned, at the top."""
    # The names take the room that the longest needs.
    font, gap = ImageFont.load_default(14), 3
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
    room = 12 + max(int(font.getlength(name)) for name in short)
    size = room + len(names) * (side + gap)
    sheet = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(short):
        at = room + i * (side + gap)
        pen.text((room - 8, at + side // 2), name, fill="black", font=font, anchor="rm")
        turned = Image.new("RGB", (room - 8, 20), "white")
        ImageDraw.Draw(turned).text((0, 10), name, fill="black", font=font, anchor="lm")
        sheet.paste(turned.rotate(90, expand=True), (at + side // 2 - 10, 0))
    # The pictures.
    for row in range(len(names)):
        for column in range(len(names)):
            picture = diagonal.get(row) if row == column else pairs.get((row, column))
            x, y = room + column * (side + gap), room + row * (side + gap)
            shown = np.tile(EMPTY, (side, side, 1)) if picture is None else enlarge(picture, side)
            sheet.paste(Image.fromarray(shown), (x, y))
            if row == column and picture is not None:
                pen.rectangle(
                    (x - 2, y - 2, x + side + 1, y + side + 1), outline="#888888", width=2
                )
    return np.asarray(sheet)
