"""What is measured of an image: colour, brightness, sharpness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from debias_core.data.images import Pixels

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
TONE = "tone"  # hue and saturation behind the name: near colours may have different names
CHUNK_BYTES = 4 << 20  # of pixels; the arrays in between are about 30 times as large
# At most this many rows and columns are read: for colours evenly spaced ones, for sharpness the middle.
SIDE = 64
GREY_BELOW = 0.1  # saturation below which an image has no colour
# Where the hue (in degrees) changes its name; red goes over zero.
HUES = (7, 45, 65, 165, 200, 255, 290, 345)
HUE_NAMES = np.array(
    ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "red"], dtype=np.str_
)


def measure(pixels: Pixels, about: dict[str, Array] | None) -> dict[str, Array]:
    """Properties of images [N, H, W, 3], each [N]; `tone` is [N, 3].

    From the pixels: colour (a name), tone (CIELAB of the same at full brightness), brightness,
    contrast and saturation in [0, 1], sharpness (variance of the Laplacian over that of the image). From `about`, where
    given: width, height, bytes, quality (JPEG, 0 where it is none), format, folder,
    cluster (of embeddings). NaN is unknown.
    """
    n = len(pixels)
    step = max(1, CHUNK_BYTES // max(1, int(np.prod(pixels.shape[1:]))))
    parts = [_measure_some(np.asarray(pixels[i : i + step])) for i in range(0, n, step)]
    if not parts:
        parts = [_measure_some(np.zeros((0, 8, 8, 3), dtype=np.uint8))]
    found: dict[str, Array] = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    for key, values in (about or {}).items():
        assert len(values) == n, f"{key} has {len(values)} values for {n} images"
        if is_category(values):
            found[key] = np.asarray(values).astype(np.str_)
        else:
            numbers = np.asarray(values).astype(np.float64)
            found[key] = np.where(numbers > 0, numbers, np.nan)
    return found


def is_category(values: Array) -> bool:
    """Whether a property has names for values, not numbers."""
    return np.asarray(values).dtype.kind in "USO"


def _measure_some(pixels: Pixels) -> dict[str, Array]:
    k = -(-max(pixels.shape[1:3]) // SIDE)
    rgb = [pixels[:, ::k, ::k, c].astype(np.float32) for c in range(3)]
    high = np.maximum(np.maximum(rgb[0], rgb[1]), rgb[2])
    chroma = high - np.minimum(np.minimum(rgb[0], rgb[1]), rgb[2])
    total = chroma.sum((1, 2), dtype=np.float64)
    saturation = total / np.maximum(high.sum((1, 2), dtype=np.float64), 1e-9)
    # Each pixel counts by its chroma: a stroke on black has the stroke's colour.
    weight = chroma + np.float32(1e-3)
    mean = np.stack(
        [np.einsum("nhw,nhw->n", c, weight, dtype=np.float64, casting="unsafe") for c in rgb], 1
    ) / weight.sum((1, 2), dtype=np.float64).reshape(-1, 1)
    luma = luma_of(rgb)
    brightness = luma.mean((1, 2), dtype=np.float64) / 255
    return {
        "colour": colour_name(mean / 255, saturation, brightness),
        # Scaled to full brightness: a darker image has not another colour.
        TONE: lab(mean / np.maximum(mean.max(1, keepdims=True), 1e-9)),
        "brightness": brightness,
        "contrast": luma.std((1, 2), dtype=np.float64) / 255,
        "saturation": saturation,
        "sharpness": _sharpness(luma if k == 1 else luma_of(_middle(pixels))),
    }


def _middle(pixels: Pixels) -> list[NDArray[np.float32]]:
    top, left = (max(0, (side - SIDE) // 2) for side in pixels.shape[1:3])
    part = pixels[:, top : top + SIDE, left : left + SIDE]
    return [part[..., c].astype(np.float32) for c in range(3)]


def luma_of(rgb: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Rec. 601 luma of three channels of the same shape."""
    return rgb[0] * np.float32(0.299) + rgb[1] * np.float32(0.587) + rgb[2] * np.float32(0.114)


def _sharpness(luma: NDArray[np.float32]) -> Floats:
    """Variance of the Laplacian over the variance [N]; NaN for images without content."""
    if min(luma.shape[1:]) < 3:
        return np.full(len(luma), np.nan)
    edges = 4 * luma[:, 1:-1, 1:-1]
    edges -= luma[:, :-2, 1:-1]
    edges -= luma[:, 2:, 1:-1]
    edges -= luma[:, 1:-1, :-2]
    edges -= luma[:, 1:-1, 2:]
    spread = luma.var((1, 2), dtype=np.float64)
    return np.where(spread < 1, np.nan, edges.var((1, 2), dtype=np.float64) / np.maximum(spread, 1))


def colour_name(rgb: Floats, saturation: Floats, brightness: Floats) -> NDArray[np.str_]:
    """The name of the colour `rgb` [N, 3] in [0, 1]; without saturation the name of the brightness."""
    high, low = rgb.max(1), rgb.min(1)
    d = np.maximum(high - low, 1e-9)
    r, g, b = rgb.T
    hue = 60 * np.where(
        high == r, (g - b) / d % 6, np.where(high == g, 2 + (b - r) / d, 4 + (r - g) / d)
    )
    name = HUE_NAMES[np.searchsorted(HUES, hue, side="right")].astype("<U8")
    # Brown is dark orange; reddish orange must be darker for it.
    name[(hue >= 7) & (hue < 45) & (high < np.where(hue < 15, 0.45, 0.62))] = "brown"
    pale_red = ((hue < 15) | (hue >= 345)) & (high > 0.75) & (d / np.maximum(high, 1e-9) < 0.5)
    name[pale_red] = "pink"
    grey = saturation < GREY_BELOW
    name[grey] = np.select(
        [brightness < 0.15, brightness > 0.85], ["black", "white"], default="grey"
    )[grey]
    return name


def lab(rgb: Floats) -> Floats:
    """sRGB [N, 3] in [0, 1] → CIELAB (D65) [N, 3]; a distance of about 2 is just visible."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
    )
    t = linear @ (to_xyz / np.array([[0.9505], [1.0], [1.089]])).T
    x, y, z = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
