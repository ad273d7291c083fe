"""uint8 HWC ↔ float NCHW in [-1, 1], decoding, grids: the only place where pixels change scale."""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

from debias_core.records import UserError

if TYPE_CHECKING:
    # Reading images needs no torch, and torch alone costs an import some 600 MB.
    from torch import Tensor

Pixels = NDArray[np.uint8]

# Only these decoders may run on a stranger's file: EPS bytes named .png would else start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 64_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Pillow only warns between one and two times its limit; a bomb is a bomb. Set once: the filters
# belong to the process, so that changing them around each image would be a race between threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

# A larger image is decoded while no other such is, and shrunk before its colours are converted:
# each copy of 64 megapixels in RGBA takes 256 MB.
LARGE_PIXELS = 8_000_000
_one_large_image = threading.Lock()

# Each scan of a JPEG may go over the whole image again, and be ten bytes long.
MAX_SCANNED_PIXELS = 100 * MAX_PIXELS
MAX_SEGMENTS = 20_000
_SEGMENT = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # no stuffed zero, restart or fill byte


@dataclass(frozen=True)
class Facts:
    """What an image's file was: `width` and `height` as shown, `format` (JPEG, PNG, …), size in `bytes`.

    `quality` is a JPEG's, 1 to 100, estimated from its quantisation tables; 0 for other formats.
    """

    width: int
    height: int
    format: str
    quality: int
    bytes: int


def to_float(pixels: Pixels | Tensor) -> Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] in [-1, 1]."""
    import torch

    if isinstance(pixels, np.ndarray):
        # torch wants memory that may be written, which a read-only map is not.
        pixels = np.ascontiguousarray(pixels) if pixels.flags.writeable else np.array(pixels)
    x = torch.as_tensor(pixels)
    return scaled(x.permute(0, 3, 1, 2).contiguous())


def planes(pixels: Pixels) -> Tensor:
    """uint8 [N, H, W, 3] → uint8 [N, 3, H, W], a copy: each batch is then read in one go."""
    import torch

    return torch.as_tensor(np.ascontiguousarray(np.asarray(pixels).transpose(0, 3, 1, 2)))


def scaled(planes: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] → float32 of the same shape in [-1, 1]; features, which are floats, as they are."""
    if planes.is_floating_point():
        return planes
    return planes.float().div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Pixels:
    """float [N, 3, H, W] in [-1, 1] (values outside are clipped) → uint8 [N, H, W, 3]."""
    import torch

    y = x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return y.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def mix_channels(x: Tensor, mix: Tensor) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] → each channel a mix [N, 3, 3] of the three, in [0, 1] and beyond.

    Mixed in [0, 1], so that black stays black.
    """
    import torch

    return torch.einsum("nij,njhw->nihw", mix, (x + 1) / 2)


def decode(data: bytes, size: int) -> Pixels:
    """A JPEG, PNG, WEBP, BMP or GIF file → uint8 [size, size, 3].

    Grey, palette, RGBA (over white), CMYK and 16-bit images come in as RGB; the EXIF rotation is
    applied; the centre square is taken; of an animation the first frame.

    Raises:
        UserError: with the reason, when the bytes are not such an image or are unsafe to open.
    """
    return decode_with_facts(data, size)[0]


def decode_with_facts(data: bytes, size: int) -> tuple[Pixels, Facts]:
    """As `decode`, and what the file was.

    Raises:
        UserError: with the reason, when the bytes are not such an image or are unsafe to open.
    """
    if not data:
        raise UserError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Checked here too: a library may have reset the warning filters since.
            if image.width * image.height > MAX_PIXELS:
                raise UserError(_too_large(image.width, image.height))
            _check_scans(image, data)
            width, height = image.size
            image.draft("RGB", (size, size))  # JPEG only: decode near the size that is needed
            with _memory_for(image):
                image.load()
                turn = _turn(image)
                rgb = _as_rgb(_shrunk(image, size))
            if turn is not None:
                rgb = rgb.transpose(turn)
            if turn in SIDEWAYS:
                width, height = height, width
            facts = Facts(width, height, _format(image), _quality(image), len(data))
            fitted = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
            return np.asarray(fitted, dtype=np.uint8), facts
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"more than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"not an image ({', '.join(FORMATS)} are read)") from None
    # A hostile file can raise almost anything inside a decoder; none of it may stop an import.
    except Exception as error:
        raise UserError(f"broken image ({type(error).__name__}: {error})"[:200]) from None


def fitted(pixels: Pixels, size: int) -> tuple[Pixels, Facts]:
    """uint8 [H, W, 3] of an array → uint8 [size, size, 3] as `decode` has it, and what it was."""
    height, width = pixels.shape[:2]
    about = Facts(width, height, "NPY", 0, pixels.nbytes)
    if height == width == size:
        return pixels, about
    image = _shrunk(Image.fromarray(pixels), size)
    fit = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fit, dtype=np.uint8), about


def _too_large(width: int, height: int) -> str:
    return f"{width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller first"


def _check_scans(image: Image.Image, data: bytes) -> None:
    pixels = image.width * image.height
    # A cheap count first: it takes in previews, and films that a phone hangs behind the photograph.
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") * pixels > MAX_SCANNED_PIXELS:
        scans, segments, at = 0, 0, 2
        while (marker := _SEGMENT.search(data, at)) and marker[1] != b"\xd9":
            scans += marker[1] == b"\xda"
            segments += 1
            if scans * pixels > MAX_SCANNED_PIXELS or segments > MAX_SEGMENTS:
                raise UserError("a JPEG of very many scans, made to be slow; save it anew")
            at = marker.end()
            if marker[1] not in (b"\x01", b"\xd8"):
                at += int.from_bytes(data[at : at + 2], "big")


def _memory_for(image: Image.Image) -> AbstractContextManager[object]:
    return _one_large_image if image.width * image.height > LARGE_PIXELS else nullcontext()


# EXIF's orientations, and what undoes each.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [TURNS[i] for i in (5, 6, 7, 8)]


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # a broken note about the image is no reason to refuse the image
        return None


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    """A large image at a whole fraction of its size, at least 4 × `size`; others as they are."""
    factor = min(image.width, image.height) // (4 * size)
    if image.width * image.height <= LARGE_PIXELS or factor < 2:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey_of_deep(image)
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("P", "PA", "1"):
        image = image.convert({"P": "RGB", "PA": "RGBA", "1": "L"}[image.mode])
    return image.reduce(factor)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_of_deep(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_of_deep(image: Image.Image) -> Image.Image:
    """16-bit (or wider) grey → 8-bit grey of the same brightness: Pillow clips at 255 instead."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)  # 65535 = 257 × 255
    else:
        wide = np.asarray(image, dtype=np.float64)
        peak = 65535.0 if wide.max(initial=0) > 255 else 255.0
        grey = (wide.clip(0, peak) / peak * 255).astype(np.uint8)
    return Image.fromarray(grey)


# ---- what the file was -----------------------------------------------------------------------

# The luminance table of the JPEG standard (ITU-T T.81, K.1), that nearly every encoder scales.
_LUMINANCE = np.array(
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
        14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
        49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ]
)  # fmt: skip


def _table_sums() -> NDArray[np.int64]:
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((_LUMINANCE * scale + 50) // 100).clip(1, 255).sum(1)


_SUM_OF_QUALITY = _table_sums()  # [100], falling


def _quality(image: Image.Image) -> int:
    tables: dict[int, list[int]] = getattr(image, "quantization", {})
    if not tables:
        return 0
    return 1 + int(np.abs(_SUM_OF_QUALITY - sum(tables[min(tables)])).argmin())


def _format(image: Image.Image) -> str:
    # MPO is a JPEG that brings further ones along (a preview, the other eye); the first is read.
    return "JPEG" if image.format == "MPO" else image.format or ""


def resized(image: Image.Image, size: int) -> Pixels:
    """An image of any size and mode → uint8 [size, size, 3], stretched where it is not square."""
    rgb = image.convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(rgb)


def png(pixels: Pixels) -> bytes:
    """uint8 [H, W, 3] → the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def enlarge(pixels: Pixels, side: int) -> Pixels:
    """uint8 [H, W, 3] shown at least `side` pixels high, by whole-number repetition."""
    factor = max(1, round(side / pixels.shape[0]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def grid(images: Sequence[Pixels] | Pixels, columns: int, gap: int = 1) -> Pixels:
    """N images [H, W, 3] of one size, row by row → one sheet on white."""
    if len(images) == 0:
        raise UserError("There are no images to show.")
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def labelled(rows: Sequence[tuple[str, Pixels]], *, side: int) -> Pixels:
    """Pictures [H, W, 3] of one width below one another, each at least `side` pixels high with its text on the left."""
    drawn = [enlarge(picture, side) for _, picture in rows]
    font = ImageFont.load_default(16)
    room = 16 + max(int(font.getlength(line)) for text, _ in rows for line in text.split("\n"))
    gap, height = 6, sum(len(picture) for picture in drawn)
    size = (room + max(picture.shape[1] for picture in drawn), height + gap * (len(rows) - 1))
    sheet, y = Image.new("RGB", size, "white"), 0
    for (text, _), picture in zip(rows, drawn, strict=True):
        at = (8, y + len(picture) // 2)
        ImageDraw.Draw(sheet).multiline_text(at, text, fill="black", font=font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (room, y))
        y += len(picture) + gap
    return np.asarray(sheet)
