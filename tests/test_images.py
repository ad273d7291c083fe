import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from debias_core.data import images
from debias_core.records import UserError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_uint8_to_float_and_back_is_exact():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = images.to_float(pixels)
    assert x.shape == (1, 3, 16, 16) and x.min() == -1 and x.max() == 1
    assert np.array_equal(images.to_uint8(x), pixels)


def test_floats_outside_the_range_are_clipped_not_wrapped():
    x = torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert images.to_uint8(x)[0].max() == 0 and images.to_uint8(x)[1].min() == 255


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (20, 10), 100), (100, 100, 100)),
        (Image.new("1", (20, 10), 1), (255, 255, 255)),
        (Image.new("RGB", (20, 10), (10, 20, 30)), (10, 20, 30)),
        (Image.new("RGBA", (20, 10), (10, 20, 30, 0)), (255, 255, 255)),  # over white
        (Image.new("RGBA", (20, 10), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (20, 10), (50, 255)), (50, 50, 50)),
        (Image.new("RGB", (20, 10), (200, 0, 0)).quantize(4), (200, 0, 0)),
        (Image.fromarray(np.full((10, 20), 0x8000, dtype=np.uint16)), (127, 127, 127)),
        (Image.fromarray(np.full((10, 20), 200, dtype=np.uint16)), (0, 0, 0)),  # nearly black
    ],
)
def test_every_mode_comes_in_as_rgb_of_the_right_colour(image, expected):
    pixels = images.decode(encoded(image), 8)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_cmyk_jpeg_comes_in_as_rgb():
    pixels = images.decode(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"), 8)
    red, green, blue = pixels.reshape(-1, 3).mean(0)
    assert red > 200 and green < 60 and blue < 60


def test_a_transparent_palette_is_laid_over_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0] * 256)
    assert images.decode(encoded(image, transparency=0), 8).min() == 255


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (16, 16), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 8, 16))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise to show: left goes to the top
    pixels = images.decode(encoded(image, "JPEG", exif=exif, quality=95), 16)
    assert pixels[2, 8, 2] > 200 and pixels[13, 8, 0] > 200


def test_the_centre_square_is_taken():
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 255, 0), (10, 0, 20, 10))
    red, green, blue = images.decode(encoded(image), 8).reshape(-1, 3).mean(0)
    assert red < 5 and green > 250 and blue == 0


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (EPS, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:70], "broken|not an image"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:600], "broken"),
        (encoded(Image.new("1", (12000, 12000)), "PNG"), "more than"),  # 144 megapixels
    ],
)
def test_what_is_no_safe_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(UserError, match=reason):
        images.decode(data, 8)


# ---- what the file was -------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_read_off_its_tables(quality):
    data = encoded(Image.effect_noise((40, 30), 50).convert("RGB"), "JPEG", quality=quality)
    _, facts = images.decode_with_facts(data, 8)
    assert facts == images.Facts(40, 30, "JPEG", quality, len(data))


def test_a_jpeg_with_tables_of_its_own_gets_the_nearest_quality():
    tables = [[3] * 64, [5] * 64]
    _, facts = images.decode_with_facts(
        encoded(Image.new("RGB", (9, 9)), "JPEG", qtables=tables), 8
    )
    assert 93 <= facts.quality <= 98


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_formats_have_no_quality(kind):
    data = encoded(Image.new("RGB", (40, 30)), kind)
    assert images.decode_with_facts(data, 8)[1] == images.Facts(40, 30, kind, 0, len(data))


def test_width_and_height_are_those_of_the_image_as_shown():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(Image.new("RGB", (400, 300)), "JPEG", exif=exif)
    facts = images.decode_with_facts(data, 8)[1]
    assert (facts.width, facts.height) == (300, 400)


def test_a_jpeg_that_brings_a_second_image_along_is_a_jpeg():
    image = Image.new("RGB", (40, 30), (200, 0, 0))
    data = encoded(image, "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    pixels, facts = images.decode_with_facts(data, 8)
    assert facts.format == "JPEG" and facts.quality == 75 and pixels[..., 0].min() > 190


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone_as_pillow_does(orientation):
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(images.decode(data, 16), expected)


def test_reading_data_needs_no_torch():
    code = (
        "import sys, debias_core.data.importing.importers, debias_core.data.catalog, debias_core.data.making.named;"
        "print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_grid_puts_images_row_by_row():
    sheet = images.grid(np.stack([np.full((2, 2, 3), v, np.uint8) for v in (1, 2, 3)]), 2, gap=1)
    assert sheet.shape == (5, 5, 3)
    assert sheet[0, 0, 0] == 1 and sheet[0, 3, 0] == 2 and sheet[3, 0, 0] == 3
    assert sheet[4, 4, 0] == 255
