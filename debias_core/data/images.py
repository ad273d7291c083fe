"""uint8 HWC ↔ float NCHW in [-1, 1], decoding, grids: the only place where pixels change scale."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from debias_core.records import UserError

Pixels = NDArray[np.uint8]

# Only these decoders may run on a stranger's file: EPS bytes named .png would else start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 64_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = False


def to_float(pixels: Pixels | Tensor) -> Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] in [-1, 1]."""
    x = torch.as_tensor(np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels)
    return x.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Pixels:
    """float [N, 3, H, W] in [-1, 1] (values outside are clipped) → uint8 [N, H, W, 3]."""
    y = x.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return y.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def decode(data: bytes, size: int) -> Pixels:
    """A JPEG, PNG, WEBP, BMP or GIF file → uint8 [size, size, 3].

    Grey, palette, RGBA (over white), CMYK and 16-bit images come in as RGB; the EXIF rotation is
    applied; the centre square is taken.

    Raises:
        UserError: with the reason, when the bytes are not such an image or are unsafe to open.
    """
    if not data:
        raise UserError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times the limit; a bomb is a bomb.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(_too_large(image.width, image.height))
                image.draft("RGB", (size, size))  # JPEG only: decode near the size that is needed
                rgb = _as_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"more than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"not an image ({', '.join(FORMATS)} are read)") from None
    # A hostile file can raise almost anything inside a decoder; none of it may stop an import.
    except Exception as error:
        raise UserError(f"broken image ({type(error).__name__}: {error})"[:200]) from None
    return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC), dtype=np.uint8)


def _too_large(width: int, height: int) -> str:
    return f"{width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller first"


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        grey = np.asarray(image, dtype=np.float64)
        deep = image.mode.startswith("I;16") or grey.max(initial=0) > 255
        peak = 65535.0 if deep else 255.0
        return Image.fromarray((grey.clip(0, peak) / peak * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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
