"""What the page shows: pictures as files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ui.shown import cards


def test_a_picture_s_file_is_written_once_and_kept_from_gradio_s_broom(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    path = Path(cards.picture(pixels))
    assert path.is_relative_to(tmp_path)
    assert (np.asarray(Image.open(path)) == pixels).all()
    before = path.stat()
    os.utime(path, (0, 0))
    assert Path(cards.picture(pixels.copy())) == path
    after = path.stat()
    assert after.st_ino == before.st_ino and after.st_mtime > 0
    assert cards.picture(255 - pixels) != str(path)
    path.unlink()
    assert Path(cards.picture(pixels)).is_file()
    assert len(list(path.parent.iterdir())) == 2  # nothing half-written stays behind
