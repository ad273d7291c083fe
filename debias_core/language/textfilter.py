"""The text filter F_T (DiffuBias 3.2): the most frequent words of the captions, and which they keep.

T      all captions of the top-K, three an image
F      2 · number of classes: how many words are kept
W      the F most frequent words of T that are no stop words
T'     the captions that hold at least one word of W, as a person has changed it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from debias_core.language.hub import answers


class StopWords(NamedTuple):
    """English words that say nothing of a picture, and whose list it is."""

    words: frozenset[str]
    source: str


@lru_cache(maxsize=1)
def stop_words() -> StopWords:
    """NLTK's stop words where they are on this machine or can be downloaded, else scikit-learn's."""
    import nltk
    from nltk.corpus import stopwords

    def of_nltk() -> StopWords:
        return StopWords(frozenset(stopwords.words("english")), "NLTK's")

    try:
        return of_nltk()
    except LookupError:
        pass
    try:
        index = nltk.downloader.Downloader.DEFAULT_URL
        if answers(index) and nltk.download("stopwords", quiet=True, raise_on_error=True):
            return of_nltk()
    except (LookupError, ValueError, OSError):
        pass
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return StopWords(frozenset(ENGLISH_STOP_WORDS), "scikit-learn's (NLTK's can't be downloaded)")


def words_of(caption: str) -> tuple[str, ...]:
    """The caption's words in order: lower case, no punctuation, no stemming."""
    from nltk.tokenize import NLTKWordTokenizer

    tokens = NLTKWordTokenizer().tokenize(caption.lower())
    stripped = (t.strip("".join(c for c in t if not c.isalnum())) for t in tokens)
    return tuple(t for t in stripped if t)


def frequent_words(captions: Iterable[str], classes: int) -> tuple[tuple[str, int], ...]:
    """W with its counts, most frequent first (ties by the alphabet): 2 · `classes` words or fewer."""
    stop = stop_words().words
    counts = Counter(w for c in captions for w in words_of(c) if w not in stop)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ranked[: 2 * classes])


def passes(captions: Sequence[str], words: Iterable[str]) -> tuple[bool, ...]:
    """Which captions hold at least one of the words."""
    wanted = frozenset(words)
    return tuple(not wanted.isdisjoint(words_of(c)) for c in captions)
