import warnings

import numpy as np
import pytest
from scipy import stats

from debias_core.data.making.digits import colored_digits
from debias_core.insight import comparison, measures
from debias_core.insight.comparison import ALL, draw_tail, holm, ranks_within
from debias_core.insight.measures import measure
from debias_core.insight.properties import compare, say, shared
from debias_core.records import UserError


@pytest.fixture(scope="module")
def biased():
    train = colored_digits(1.0).where("train")
    return train, measure(train.pixels, None)


@pytest.fixture(scope="module")
def fair():
    train = colored_digits(100).where("train")
    return train, measure(train.pixels, None)


def flat(rgb, side=8):
    return np.full((1, side, side, 3), rgb, dtype=np.uint8)


# ---- measuring ----


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 20, 30), "red"), ((240, 140, 20), "orange"), ((120, 75, 35), "brown"),
        ((235, 225, 40), "yellow"), ((40, 180, 60), "green"), ((30, 200, 210), "cyan"),
        ((30, 60, 220), "blue"), ((130, 30, 210), "purple"), ((240, 90, 190), "pink"),
        ((255, 180, 190), "pink"), ((128, 128, 128), "grey"), ((8, 8, 8), "black"),
        ((250, 250, 250), "white"), ((0, 0, 0), "black"),
    ],
)  # fmt: skip
def test_colours_have_their_everyday_names_also_as_a_stroke_on_black(rgb, name):
    assert measure(flat(rgb), None)["colour"].tolist() == [name]
    if name not in ("grey", "white"):
        stroke = np.zeros((1, 8, 8, 3), dtype=np.uint8)
        stroke[:, 2:6, 3] = rgb
        assert measure(stroke, None)["colour"].tolist() == [name]


def test_brightness_contrast_saturation_and_sharpness_have_their_known_values():
    half = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    half[:, :4] = 255
    found = measure(np.concatenate([half, flat((255, 0, 0)), flat((100, 100, 100))]), None)
    assert found["brightness"] == pytest.approx([0.5, 0.299, 100 / 255], abs=1e-4)
    assert found["contrast"] == pytest.approx([0.5, 0, 0], abs=1e-4)
    assert found["saturation"] == pytest.approx([0, 1, 0], abs=1e-4)
    assert np.isnan(found["sharpness"][1:]).all(), "an image without content is neither"


def test_a_blurred_image_is_less_sharp_and_a_darker_one_is_not():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    wide = noise.astype(int)
    blurred = sum(np.roll(wide, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) // 9
    sharp = measure(np.concatenate([noise, blurred.astype(np.uint8), noise // 2]), None)[
        "sharpness"
    ]
    assert sharp[1] < 0.3 * sharp[0] and sharp[2] == pytest.approx(sharp[0], rel=0.02)


def test_tone_does_not_change_with_brightness():
    found = measure(np.concatenate([flat((200, 100, 40)), flat((100, 50, 20))]), None)
    assert found["tone"][0] == pytest.approx(found["tone"][1], abs=1e-6)


def test_measuring_in_chunks_changes_nothing(biased, monkeypatch):
    train, whole = biased
    monkeypatch.setattr(measures, "CHUNK_BYTES", 10_000)
    parts = measure(train.pixels[:100], None)
    for key, values in parts.items():
        if values.dtype.kind == "U":
            assert (values == whole[key][:100]).all()
        else:
            assert values == pytest.approx(whole[key][:100], rel=1e-6)


def test_no_images_have_no_properties():
    found = measure(np.zeros((0, 8, 8, 3), dtype=np.uint8), None)
    assert {len(v) for v in found.values()} == {0}
    assert shared(found, np.zeros(0, dtype=int), ("a",), np.zeros(0, dtype=int)) == ()


def test_what_is_not_a_jpeg_has_no_quality():
    about = {"quality": np.array([0, 85]), "folder": np.array(["a", "b"])}
    found = measure(np.zeros((2, 8, 8, 3), dtype=np.uint8), about)
    assert np.isnan(found["quality"][0]) and found["quality"][1] == 85
    assert found["folder"].tolist() == ["a", "b"]


# ---- the tests behind it ----


def test_the_rank_test_agrees_with_scipy_and_errs_on_the_safe_side():
    rng = np.random.default_rng(0)
    for n, m in ((5, 40), (8, 100), (20, 300), (60, 300)):
        for shift in (0.0, 0.7, 1.5):
            v = np.concatenate([rng.normal(shift, 1, n), rng.normal(0, 1, m)])
            chosen = np.arange(n + m) < n
            stratum = np.zeros(n + m, dtype=int)
            scope = comparison.Scope("a", np.arange(n + m), stratum, chosen)
            rank = ranks_within(v, stratum)
            mine = comparison.rank_test(rank, scope)
            how = "exact" if n <= 20 else "asymptotic"
            u, theirs = stats.mannwhitneyu(v[chosen], v[~chosen], method=how)
            print(f"n {n} m {m} shift {shift}: p {mine:.2g}, scipy ({how}) {theirs:.2g}")
            assert theirs * 0.8 < mine < max(3 * theirs, theirs**0.8)
            assert comparison.rank_biserial(rank, scope) == pytest.approx(2 * u / (n * m) - 1)


def test_one_image_a_class_is_enough_to_be_compared_within_classes():
    # Ten classes of very different brightness; in each the darkest image is chosen.
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(10), 50)
    v = y * 10 + rng.random(500)
    chosen = np.array([np.flatnonzero(y == c)[v[y == c].argmin()] for c in range(10)])
    (found,) = shared({"brightness": v}, y, tuple("abcdefghij"), chosen)
    assert (found.scope, found.count, found.of, found.effect) == (ALL, 10, 10, -1.0)


def test_drawing_without_replacement_is_fisher_s_test_and_adds_up_over_classes():
    one = draw_tail(4, np.array([6]), np.array([10]), np.array([50]))
    table = [[4, 2], [6, 38]]
    assert one == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    n, marked, size = np.array([3, 2]), np.array([4, 5]), np.array([12, 9])
    a = stats.hypergeom.pmf(np.arange(4), 12, 4, 3)
    b = stats.hypergeom.pmf(np.arange(3), 9, 5, 2)
    by_hand = sum(a[i] * b[j] for i in range(4) for j in range(3) if i + j >= 4)
    assert draw_tail(4, n, marked, size) == pytest.approx(by_hand)


def test_the_normal_tail_for_many_images_meets_the_exact_one():
    n, marked, size = np.array([4000]), np.array([10_000]), np.array([20_000])
    exact = stats.hypergeom.sf(2059, 20_000, 10_000, 4000)
    assert draw_tail(2060, n, marked, size) == pytest.approx(exact, rel=0.05)


def test_holm_corrects_step_by_step():
    assert holm([0.01, 0.04, 0.03], 3) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01], 100) == [1.0]
    assert holm([], 0) == []


# ---- known answers ----


def test_the_planted_colour_is_what_the_conflicting_digits_share(biased):
    train, found = biased
    chosen = np.flatnonzero(train.conflicting())
    (finding,) = shared(found, train.y, train.class_names, chosen)
    assert finding.text.startswith("Colour is not the class's usual one: 13 of 13, against ")
    assert finding.scope == ALL and finding.property == "colour"
    assert (finding.count, finding.of, finding.rest_of) == (13, 13, 1287)
    assert finding.rest_count <= 5 and finding.p < 1e-15 and finding.effect > 0.99


def test_ten_of_them_are_enough(biased):
    train, found = biased
    chosen = np.flatnonzero(train.conflicting())[:10]
    findings = shared(found, train.y, train.class_names, chosen)
    assert findings[0].property == "colour" and findings[0].count == 10


@pytest.mark.parametrize("which", ["biased", "fair"])
def test_random_images_share_nothing_and_would_without_the_correction(which, request):
    train, found = request.getfixturevalue(which)
    rng = np.random.default_rng(0)
    alarms = raw = 0
    for draw in range(40):
        chosen = rng.permutation(len(train))[: (10, 30, 60)[draw % 3]]
        alarms += bool(shared(found, train.y, train.class_names, chosen))
        raw += any(f.p < 0.05 for f in compare(found, train.y, train.class_names, chosen)[0])
    print(f"{which}: false alarms {alarms} of 40, without the correction {raw} of 40")
    assert alarms <= 4 and raw >= 8


def test_random_images_with_much_known_about_them_share_nothing():
    rng = np.random.default_rng(1)
    n = 600
    y = rng.integers(0, 4, n)
    about = {
        "width": rng.choice([64, 128, 4000], n, p=[0.6, 0.39, 0.01]).astype(float),
        "bytes": rng.lognormal(8, 1, n),
        "quality": np.where(rng.random(n) < 0.02, 20.0, 90.0),
        "format": rng.choice(["JPEG", "PNG", "BMP"], n, p=[0.9, 0.09, 0.01]),
        "folder": np.array([f"shoot {i}" for i in rng.integers(0, 60, n)]),
    }
    alarms = sum(
        bool(shared(about, y, tuple("abcd"), rng.permutation(n)[: (4, 12, 50)[draw % 3]]))
        for draw in range(40)
    )
    print(f"false alarms {alarms} of 40")
    assert alarms <= 4


def test_a_planted_change_of_brightness_is_found_and_told_once(biased):
    train, _ = biased
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(~train.conflicting()))[:20]
    pixels = train.pixels.copy()
    pixels[chosen] = (pixels[chosen] * 0.4).astype(np.uint8)
    (finding,) = shared(measure(pixels, None), train.y, train.class_names, chosen)
    assert finding.text.startswith("Darker than the rest of their class; beyond nine tenths")
    assert finding.effect < -0.95 and finding.count == 20


def test_a_finding_of_one_class_names_it_and_gives_both_medians(biased):
    train, _ = biased
    chosen = np.flatnonzero((train.y == 7) & ~train.conflicting())[:8]
    pixels = train.pixels.copy()
    pixels[chosen] = (pixels[chosen] * 0.4).astype(np.uint8)
    others = np.flatnonzero(train.y == 3)[:3]
    findings = shared(
        measure(pixels, None), train.y, train.class_names, np.concatenate([chosen, others])
    )
    mine = [f for f in findings if f.scope == "7"]
    assert mine and mine[0].text.startswith("Class 7: darker than the rest (median brightness 0.0")
    assert mine[0].of == 8 and mine[0].rest_of == 121
    (alone,) = shared(measure(pixels, None), train.y, train.class_names, chosen)
    assert alone.scope == "7", "chosen from one class alone, there is no other scope"


def about_of(n):
    rng = np.random.default_rng(2)
    return {
        "width": np.full(n, 640),
        "height": np.full(n, 480),
        "bytes": rng.integers(20_000, 60_000, n),
        "quality": rng.integers(85, 96, n),
        "format": np.full(n, "JPEG"),
        "folder": np.array([f"roll {i % 5}" for i in range(n)]),
    }


def test_planted_jpeg_quality_is_found(biased):
    train, _ = biased
    chosen = np.random.default_rng(3).permutation(len(train))[:12]
    about = about_of(len(train))
    about["quality"][chosen] = 40
    about["bytes"][chosen] //= 3
    findings = shared(measure(train.pixels, about), train.y, train.class_names, chosen)
    assert {f.property for f in findings} == {"quality", "bytes"}
    quality = next(f for f in findings if f.property == "quality")
    assert quality.text == (
        "Of lower JPEG quality than the rest of their class; beyond nine tenths of the rest: "
        f"12 of 12, against {quality.rest_count} of {quality.rest_of:,} of the rest."
    )


def test_a_planted_source_folder_is_found_and_its_name_stays_text(biased):
    train, _ = biased
    chosen = np.random.default_rng(4).permutation(len(train))[:12]
    about = about_of(len(train))
    about["folder"] = about["folder"].astype("<U40")
    about["folder"][chosen[:10]] = "<script>${x}</script>"
    (first, *more) = shared(measure(train.pixels, about), train.y, train.class_names, chosen)
    assert more == []
    assert first.text == (
        "Source folder is “<script>${x}</script>”: 10 of 12, against 0 of "
        f"{first.rest_of:,} of the rest."
    )


def test_a_folder_that_is_only_the_class_is_no_finding(biased):
    train, found = biased
    chosen = np.flatnonzero(train.y == 4)[:15]
    with_folder = {**found, "folder": np.array([f"digit {c}" for c in train.y])}
    assert shared(with_folder, train.y, train.class_names, chosen) == ()


def test_width_height_and_bytes_are_told_as_one(biased):
    train, _ = biased
    chosen = np.random.default_rng(5).permutation(len(train))[:12]
    about = about_of(len(train))
    about["width"][chosen], about["height"][chosen] = 320, 240
    about["bytes"][chosen] //= 4
    findings = shared(measure(train.pixels, about), train.y, train.class_names, chosen)
    assert len(findings) == 1 and findings[0].property in ("width", "height", "bytes")


def test_an_unusual_look_in_either_direction_is_found():
    # Half of the chosen are the brightest of their class, half the darkest.
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 60)
    v = rng.random(360)
    chosen = np.array([i for c in range(6) for i in np.flatnonzero(y == c)[:2]])
    v[chosen] = np.tile([-1.0, 2.0], 6)
    (found,) = shared({"brightness": v}, y, tuple("abcdef"), chosen)
    assert found.text.startswith("Unusual brightness for their class, low or high; outside nine")
    assert found.count == 12


def test_markup_in_class_names_stays_text(biased):
    train, _ = biased
    chosen = np.flatnonzero(train.y == 6)[:8]
    pixels = train.pixels.copy()
    pixels[chosen] //= 4
    hostile = (*train.class_names[:6], "<b>{{x}}</b>", *train.class_names[7:])
    findings = shared(measure(pixels, None), train.y, hostile, chosen)
    assert findings and findings[0].text.startswith("Class <b>{{x}}</b>: darker than the rest")


# ---- guards ----


def test_too_few_all_none_and_tiny_classes_share_nothing_and_warn_of_nothing(biased):
    train, found = biased
    everything = np.arange(len(train))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chosen in ([], [3], [3, 4], everything, np.flatnonzero(train.y == 2)):
            assert shared(found, train.y, train.class_names, np.array(chosen, dtype=int)) == ()
        single = {key: values[:6] for key, values in found.items()}
        assert shared(single, np.arange(6), tuple("abcdef"), np.array([0, 1, 2])) == ()


def test_constant_and_unknown_values_are_passed_over():
    y = np.zeros(40, dtype=int)
    v = {"brightness": np.full(40, 0.5), "quality": np.full(40, np.nan)}
    v["width"] = np.where(np.arange(40) < 4, 10.0, np.nan)
    v["format"] = np.full(40, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(v, y, ("a",), np.arange(6)) == ([], 0)


def test_the_order_of_the_chosen_and_repeats_change_nothing(biased):
    train, found = biased
    chosen = np.flatnonzero(train.conflicting())
    twice = np.concatenate([chosen[::-1], chosen])
    once = shared(found, train.y, train.class_names, chosen)
    assert shared(found, train.y, train.class_names, twice) == once


def test_a_row_that_does_not_exist_is_refused(biased):
    train, found = biased
    for row in (-1, len(train)):
        with pytest.raises(UserError, match="rows are 0 to 1,299"):
            shared(found, train.y, train.class_names, np.array([1, 2, 3, row]))


def test_it_is_said_in_words(biased):
    train, found = biased
    assert say(()).startswith("Nothing stands out")
    assert "at least 3" in say((), chosen=2)
    findings = shared(found, train.y, train.class_names, np.flatnonzero(train.conflicting()))
    assert "association, not proof" in say(findings)
    assert say(findings * 2).startswith("2 things stand out")
