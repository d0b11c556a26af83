"""How alike two captions are: METEOR through nltk, and CIDEr-D; neither needs Java.

The official tokenizer, METEOR 1.5 and its paraphrase tables are Java programs. This METEOR is nltk's (exact and stem
matches; no synonyms, because WordNet is a download), with words split by a rule of ours, so its values are close to the
official ones and not equal. CIDEr-D is the published formula.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score


CIDER_MAX_ORDER = 4  # n-grams of 1 to 4 words
CIDER_SIGMA = 6.0  # words, width of the length penalty
_WORDS = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def split_words(caption: str) -> list[str]:
    """Lower-case words without punctuation.

    >>> split_words("The man's dog - 2 of them!")
    ['the', "man's", 'dog', '2', 'of', 'them']
    """
    return _WORDS.findall(caption.lower().replace("\u2019", "'"))


class _CachedStemmer:
    """Porter's stemmer; captions repeat few words often."""

    def __init__(self):
        self.stem = lru_cache(maxsize=None)(PorterStemmer().stem)


class _NoSynonyms:
    """Stands for the WordNet corpus, which is not downloaded: no word has a synonym."""

    @staticmethod
    def synsets(word: str) -> list:
        return []


_STEMMER = _CachedStemmer()


def meteor(prediction: str, reference: str) -> float:
    """METEOR in 0-1 of one caption against one reference; 0 if either has no word.

    >>> meteor("", "a dog barks")
    0.0
    """
    words, wanted = split_words(prediction), split_words(reference)
    if not words or not wanted:
        return 0.0
    return float(single_meteor_score(wanted, words, stemmer=_STEMMER, wordnet=_NoSynonyms()))


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption, in 0-10 (the published scale), document frequencies over the given references.

    Args:
        predictions: one caption per item.
        references: the reference captions of each item, in the same order.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions for {len(references)} lists of references")
    counted = [[_ngrams(reference) for reference in group] for group in references]
    frequency = Counter(ngram for group in counted for ngram in {n for counts in group for n in counts})
    log_documents = math.log(max(len(references), 1))

    def vectors(counts: Counter) -> tuple[list[dict], list[float], int]:
        by_order: list[dict] = [{} for _ in range(CIDER_MAX_ORDER)]
        for ngram, count in counts.items():
            idf = log_documents - math.log(max(1, frequency[ngram]))
            by_order[len(ngram) - 1][ngram] = count * idf
        norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in by_order]
        return by_order, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    scores = []
    for prediction, group in zip(predictions, counted):
        ours = vectors(_ngrams(prediction))
        similarities = [_similarity(ours, vectors(counts)) for counts in group]
        scores.append(10.0 * sum(similarities) / len(similarities) if similarities else 0.0)
    return scores


def _ngrams(caption: str) -> Counter:
    words = split_words(caption)
    return Counter(
        tuple(words[at : at + order])
        for order in range(1, CIDER_MAX_ORDER + 1)
        for at in range(len(words) - order + 1)
    )


def _similarity(ours: tuple, theirs: tuple) -> float:
    """Clipped cosine per n-gram order, times the length penalty, averaged over the orders."""
    total = 0.0
    for order in range(CIDER_MAX_ORDER):
        vector, other = ours[0][order], theirs[0][order]
        shared = sum(min(value, other.get(ngram, 0.0)) * other.get(ngram, 0.0) for ngram, value in vector.items())
        norms = ours[1][order] * theirs[1][order]
        total += shared / norms if norms else shared
    # lengths count bigrams, as the published implementation does
    return total * math.exp(-((ours[2] - theirs[2]) ** 2) / (2 * CIDER_SIGMA**2)) / CIDER_MAX_ORDER
