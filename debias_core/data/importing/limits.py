"""How much of a stranger's source is read at all: beyond these limits a file, or the whole source, is refused."""

from __future__ import annotations

MAX_ENTRIES = 2_000_000
MAX_NAME = 500  # characters; the rows' ids are one array, as wide as its longest
MAX_LABEL = 200
MAX_CLASSES = 2_000  # and values of the bias attribute
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 30  # of all files together, unpacked
MAX_CSV_BYTES = 256 << 20
MAX_ZIP_DIRECTORY_BYTES = 256 << 20
MAX_UNPACKED_BYTES = 512 << 20  # of a zip's arrays of images, which are read into memory
MAX_ZIP_RATIO = 100  # beyond it a member, or a whole zip, is taken for a bomb
RATIO_FREE_BYTES = 1 << 20  # small members may compress as well as they like
TOTAL_RATIO_FREE_BYTES = 1 << 30
BEAT = 0.5  # seconds between two signs of life of an import
