"""Bias in words: what the captions of chosen images say that those of the rest of their class don't.

After Bias-to-Text (Kim et al., CVPR 2024), which scores the keywords of misclassified images against
correctly classified ones of the class. Here the comparison is that of `insight/comparison.py`: exact
within classes, corrected over all words that were tried. A word stands in an image if at least half
of its captions say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from debias_core.insight.comparison import ALL, ALPHA, Finding, holm, over, scopes
from debias_core.insight.properties import MOST

Ints = NDArray[np.int64]
RARE = 0.2  # share of a class's images up to which a word is unusual there
USUAL = 0.7  # share of a class's images from which a word is the class's own
NAMED = 8  # unusual words that a finding names


def keywords(
    captions: Sequence[Sequence[str]],
    y: Ints,
    class_names: tuple[str, ...],
    chosen: Ints,
    words_of: Callable[[str], Sequence[str]],
    stop: frozenset[str],
) -> tuple[Finding, ...]:
    """Words that the images `chosen` (positions) have in their captions and the rest have not.

    captions: some for each of N images; y [N]; `words_of` splits a caption; `stop` words don't count.
    Two kinds of findings: one word that is over-represented, and words, each of them unusual in its
    class (on Colored Digits: each image names another wrong colour). Empty when nothing stands out.
    """
    says = _says(captions, words_of, stop)
    vocabulary = sorted({w for words in says for w in words})
    stands = np.array([[w in words for w in vocabulary] for words in says], dtype=np.bool_)
    if not vocabulary:
        return ()
    unusual = np.zeros_like(stands)
    for c in np.unique(y):
        rows = y == c
        # Chosen and other images decide alike what is usual, or the test would not be exact.
        unusual[rows] = stands[rows] & (stands[rows].mean(0) <= RARE)
    found: list[Finding] = []
    tests = 0
    for scope in scopes(y, class_names, chosen):
        some = stands[scope.rows]
        for k, word in enumerate(vocabulary):
            hit = some[:, k]
            if not 0 < hit.sum() < len(hit):
                continue
            tests += 1
            result = over("word", f"the caption says “{word}”", f"is {word}", hit, scope)
            if result is not None:
                found.append(result)
        odd = unusual[scope.rows]
        if odd.any():
            tests += 1
            mine = odd[scope.chosen].sum(0)
            named = [
                f"{vocabulary[k]} ({mine[k]})"
                for k in np.argsort(-mine, kind="stable")[:NAMED]
                if mine[k]
            ]
            claim = f"the caption has words that are unusual in the class, {', '.join(named)}"
            result = over("word", claim, "unusual", np.asarray(odd.any(1)), scope)
            if result is not None:
                found.append(result)
    corrected = holm([f.p for f in found], tests)
    kept = [replace(f, p=p) for f, p in zip(found, corrected, strict=True) if p < ALPHA]
    kept.sort(key=lambda f: (f.scope != ALL, -round(f.effect, 1), f.p))
    return tuple(kept[:MOST])


def looks(
    captions: Sequence[Sequence[str]],
    y: Ints,
    chosen: Ints,
    words_of: Callable[[str], Sequence[str]],
    stop: frozenset[str],
) -> tuple[dict[int, frozenset[str]], tuple[str, ...]]:
    """The words for the shortcut (ours): (those of each class, all of them); no bias labels are looked at.

    captions, y, chosen as for `keywords`; the chosen are images that the bias classifier can't explain.
    A class's own look is what 70 % of its other images say and most of its chosen ones don't (*purple*,
    but not *five*). Empty where no class has both chosen and other images.
    """
    says, own = _says(captions, words_of, stop), {}
    is_chosen = np.zeros(len(y), dtype=np.bool_)
    is_chosen[chosen] = True
    for c in np.unique(y[is_chosen]):
        few, rest = (
            [says[i] for i in np.flatnonzero((y == c) & (is_chosen == which))]
            for which in (True, False)
        )
        if rest:
            own[int(c)] = frozenset(_common(rest, USUAL) - _common(few, 0.5))
    return own, tuple(sorted(set().union(*own.values())))


def _says(
    captions: Sequence[Sequence[str]],
    words_of: Callable[[str], Sequence[str]],
    stop: frozenset[str],
) -> list[set[str]]:
    """The words that stand in each image: in at least half of its captions."""
    counts = [Counter(w for c in said for w in set(words_of(c)) - stop) for said in captions]
    return [
        {w for w, n in count.items() if 2 * n >= len(said)}
        for count, said in zip(counts, captions, strict=True)
    ]


def _common(words: Sequence[set[str]], share: float) -> set[str]:
    count = Counter(w for some in words for w in some)
    return {w for w, n in count.items() if n >= share * len(words)}
