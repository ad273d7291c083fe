import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from debias_core.data.making import corruptions
from debias_core.data.making.corruptions import CORRUPTIONS, corrupt, frost_sheet

RANDOM = ("snow", "frost", "spatter", "frosted glass blur")


@pytest.fixture(scope="module")
def photos():
    """Twelve 32-px tiles of scikit-learn's two photographs."""
    tiles = [
        np.asarray(
            Image.fromarray(picture[y : y + 200, x : x + 200]).resize(
                (32, 32), Image.Resampling.BOX
            )
        )
        for picture in load_sample_images().images
        for y in (0, 200)
        for x in (0, 200, 400)
    ]
    return np.stack(tiles)


def flat(*rgb):
    return np.full((1, 32, 32, 3), rgb, dtype=np.uint8)


def one(kind, picture, seed=0):
    return corrupt(kind, picture, np.array([0]), seed=seed)[0]


def hsv(pixels):
    return np.array([colorsys.rgb_to_hsv(*p) for p in pixels.reshape(-1, 3) / 255])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_picture_is_corrupted_the_same_in_any_batch(photos, kind, monkeypatch):
    numbers = np.arange(len(photos)) + 40
    together = corrupt(kind, photos, numbers, seed=3)
    monkeypatch.setattr(corruptions, "BATCH", 5)
    assert np.array_equal(corrupt(kind, photos, numbers, seed=3), together)
    for i in (0, 7):
        alone = corrupt(kind, photos[i : i + 1], numbers[i : i + 1], seed=3)
        assert np.array_equal(alone[0], together[i])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_seed_and_number_change_what_is_random_and_nothing_else(photos, kind):
    same = np.repeat(photos[:1], 2, axis=0)
    by_number, by_seed = corrupt(kind, same, np.array([0, 1])), one(kind, photos[:1], seed=1)
    assert np.array_equal(by_number[0], by_number[1]) == (kind not in RANDOM)
    assert np.array_equal(by_number[0], by_seed) == (kind not in RANDOM)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_shows_and_leaves_the_picture_there(photos, kind):
    made = corrupt(kind, photos, np.arange(len(photos)))
    assert made.dtype == np.uint8 and made.shape == photos.shape
    change = np.abs(made.astype(int) - photos).mean((1, 2, 3))
    assert change.mean() > 3
    before, after = photos.mean(3).reshape(12, -1), made.mean(3).reshape(12, -1)
    # Nearest by correlation, the picture itself: its shapes are still there.
    likeness = np.corrcoef(before, after)[:12, 12:]
    assert (likeness.argmax(0) == np.arange(12)).mean() > 0.8


def test_contrast_keeps_0_15_of_the_distance_from_the_mean():
    halves = flat(100, 100, 100)
    halves[:, 16:] = 200
    made = one("contrast", halves)
    assert set(np.unique(made)) == {142, 157}  # 150 ± 7.5, cut off


def test_brightness_adds_0_3_to_the_value_and_keeps_hue_and_saturation(photos):
    before, after = hsv(photos[:2]), hsv(corrupt("brightness", photos[:2], np.arange(2)))
    assert np.abs(after[:, 2] - np.minimum(before[:, 2] + 0.3, 1)).max() < 1 / 255 + 1e-6
    bright = before[:, 2] > 0.3  # the hue of a dark pixel is rounding
    assert np.abs(after - before)[bright, 1].max() < 0.02
    assert one("brightness", flat(0, 0, 0)).max() == int(0.3 * 255)


def test_saturation_becomes_2_5_s_and_a_fifth_more_and_grey_turns_reddish(photos):
    before, after = hsv(photos[:2]), hsv(corrupt("saturate", photos[:2], np.arange(2)))
    bright = before[:, 2] > 0.3
    expected = np.minimum(2.5 * before[:, 1] + 0.2, 1)
    assert np.abs(after[:, 1] - expected)[bright].max() < 0.02
    assert np.abs(after[:, 2] - before[:, 2]).max() < 1 / 255 + 1e-6
    assert one("saturate", flat(100, 100, 100))[0, 0].tolist() == [100, 80, 80]


def test_defocus_is_the_mean_of_nine_pixels():
    dot = flat(0, 0, 0)
    dot[0, 16, 16] = 252
    made = one("defocus blur", dot)
    assert (made[15:18, 15:18] == 28).all() and made.sum() == 9 * 3 * 28


def test_frosted_glass_moves_pixels_two_down_and_right_at_most():
    ramp = flat(0, 0, 0)
    ramp[0] = np.arange(32, dtype=np.uint8)[None, :, None] * 8
    moved = (ramp[0].astype(int) - one("frosted glass blur", ramp))[2:-2, 3:-2, 0] / 8
    assert moved.min() > -0.5 and moved.max() < 2.5 and 0.8 < moved.mean() < 1.2


def test_jpeg_is_pillow_s_at_quality_40_and_pixelate_knows_20_cells(photos):
    buffer = io.BytesIO()
    Image.fromarray(photos[0]).save(buffer, format="JPEG", quality=40)
    assert np.array_equal(one("JPEG", photos[:1]), np.asarray(Image.open(buffer)))
    columns = np.arange(32, dtype=np.uint8)[None, :, None] * np.ones((32, 1, 3), dtype=np.uint8)
    assert len(np.unique(one("pixelate", 8 * columns[None]))) == 20
    assert (one("pixelate", flat(9, 99, 199)) == (9, 99, 199)).all()


def test_snow_on_black_looks_the_same_upside_down():
    made = one("snow", flat(0, 0, 0))
    assert np.array_equal(made, made[::-1, ::-1]) and made.min() >= 25 and made.std() > 5


def test_mud_is_brown_and_leaves_the_rest_alone():
    made = one("spatter", flat(255, 255, 255)).reshape(-1, 3)
    clean = (made == 255).all(1)
    assert 0.5 < clean.mean() < 0.98
    assert (made[~clean][:, 0] > made[~clean][:, 2]).all() and made[:, 2].min() < 60


def test_the_frost_is_bluish_white_and_its_edges_fit():
    sheet = frost_sheet()
    assert sheet.shape == (512, 512, 3) and sheet.min() >= 0 and sheet.max() <= 1
    assert (sheet[..., 2] > sheet[..., 0]).all() and sheet.std() > 0.15
    for axis in (0, 1):
        inside = np.abs(np.diff(sheet, axis=axis)).mean()
        seam = np.abs(sheet.take(0, axis) - sheet.take(-1, axis)).mean()
        assert seam < 1.3 * inside


def test_the_ten_corruptions_can_be_told_apart(photos):
    # A bias that no classifier can see would be none: neighbours by a few plain measures.
    def measures(x):
        x = x.astype(float)
        steps = np.abs(np.diff(x, axis=1)), np.abs(np.diff(x, axis=2))
        low, high = x.min(3), x.max(3)
        parts = [x.mean((1, 2)), x.std((1, 2)), *(s.mean((1, 2)) for s in steps)]
        return np.column_stack([*parts, (high - low).mean((1, 2)), *(s.max((1, 2)) for s in steps)])

    base = measures(photos)
    made = {k: measures(corrupt(k, photos, np.arange(12))) - base for k in CORRUPTIONS}
    scale = np.concatenate(list(made.values())).std(0)
    centres = np.stack([(m[::2] / scale).mean(0) for m in made.values()])
    right = [
        (np.linalg.norm(m[1::2, None] / scale - centres, axis=2).argmin(1) == i).mean()
        for i, m in enumerate(made.values())
    ]
    assert np.mean(right) > 0.6  # chance: 0.1
