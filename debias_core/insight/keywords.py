"""Bias in words: what the captions of chosen images say that those of the rest of their class don't.

After Bias-to-Text (Kim et al., CVPR 2024), which scores the keywords of misclassified images against
correctly classified ones of the class. Here the comparison is that of `insight/properties.py`: exact
within classes, corrected over all words that were tried. A word stands in an image if at least half
of its captions say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from debias_core.insight.properties import (
    ALL,
    ALPHA,
    MIN_EFFECT,
    MOST,
    Finding,
    holm,
    over,
    scopes,
)

Ints = NDArray[np.int64]
RARE = 0.2  # share of a class's images up to which a word is unusual there
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
    counts = [Counter(w for c in said for w in set(words_of(c)) - stop) for said in captions]
    says = [
        {w for w, n in count.items() if 2 * n >= len(said)}
        for count, said in zip(counts, captions, strict=True)
    ]
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
    kept = [
        replace(f, p=p)
        for f, p in zip(found, corrected, strict=True)
        if p < ALPHA and f.effect >= MIN_EFFECT
    ]
    kept.sort(key=lambda f: (f.scope != ALL, -round(f.effect, 1), f.p))
    return tuple(kept[:MOST])
