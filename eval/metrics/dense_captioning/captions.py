"""How similar two captions are: METEOR as nltk computes it, METEOR 1.5 by its authors' program, and CIDEr-D.

METEOR 1.5 is a Java program with tables of synonyms and paraphrases. Without it, `NltkMeteor` gives the METEOR of 2005
(Banerjee and Lavie) with exact and stem matches: another metric, so its values have another name. CIDEr-D is the
published formula.
"""

import math
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from .words import LETTER, UNSPACED


CIDER_MAX_ORDER = 4  # n-grams of 1 to 4 words
CIDER_SIGMA = 6.0  # words, width of the length penalty
# What a caption that overlaps no reference is compared with; the challenge's evaluator takes random letters.
NO_REFERENCE = "qzxwvkjqzxwvkj"

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PART = rf"(?:(?!n't\b){LETTER})+"
_WORDS = re.compile(
    rf"""
    can(?=not\b) | n't\b | '(?:s|re|ve|ll|d|m)\b            # can not, do n't, man 's
  | {_PART}(?:(?:[-/&.]|(?<=\d)[,:](?=\d)){_PART})*        # sit-ups, 1/2, 12:31
  | {UNSPACED} | [\#&$%@*+=|~<>/()\[\]{{}}]
    """,
    re.VERBOSE,
)


def split_words(caption: str) -> list[str]:
    """Lower-case words without punctuation, as the Penn Treebank tokenizer of the challenge splits them.

    Equal to that Java program on 17,476 of the 17,505 captions of ActivityNet Captions' val_1. 22 of the others have a
    letter or an apostrophe that is not ASCII: the challenge's evaluator replaces it by a blank ("pi ata"), here it is
    kept. A character of a script without spaces is a word.

    >>> split_words("The man's dog - 2 of them - don't sit up!")
    ['the', 'man', "'s", 'dog', '2', 'of', 'them', 'do', "n't", 'sit', 'up']
    """
    return [_BRACKETS.get(word, word) for word in _WORDS.findall(caption.lower().replace("\u2019", "'"))]


class _CachedStemmer:
    """Porter's stemmer; captions repeat few words often."""

    def __init__(self):
        from nltk.stem.porter import PorterStemmer

        self.stem = lru_cache(maxsize=None)(PorterStemmer().stem)


class _NoSynonyms:
    """In place of the WordNet corpus, which is a download: no word has a synonym."""

    @staticmethod
    def synsets(word: str) -> list:
        return []


class NltkMeteor:
    """METEOR of 2005 by nltk: exact and stem matches, recall weight 0.9, no synonyms and no paraphrases.

    >>> NltkMeteor().compare([("a dog barks", "a dog barks"), ("rain", "a dog barks")])[1]
    [0.9814814814814815, 0.0]
    """

    suffix = "_nltk"  # of the names of all values that depend on it

    def __init__(self):
        self._stemmer = _CachedStemmer()

    def compare(self, pairs: Sequence[tuple[str, str]]) -> tuple[float, list[float]]:
        """The mean, and the value of each (caption, reference) pair, in 0-1; 0 if either has no word."""
        scores = [self._score(split_words(caption), split_words(reference)) for caption, reference in pairs]
        return sum(scores) / len(scores) if scores else 0.0, scores

    def _score(self, words: list[str], reference: list[str]) -> float:
        from nltk.translate.meteor_score import single_meteor_score  # not at the top: CIDEr runs without nltk

        if not words or not reference:
            return 0.0
        return float(single_meteor_score(reference, words, stemmer=self._stemmer, wordnet=_NoSynonyms()))


class JavaMeteor:
    """METEOR 1.5 by its authors' program, for English; needs Java and the jar with the `data` folder beside it.

    Args:
        jar: path of meteor-1.5.jar, as the package pycocoevalcap contains it.

    Raises:
        ValueError: the jar does not exist, Java is not installed, the program ends, or a caption has words and none of
            them in ASCII letters (the challenge's evaluator gives it 0).
    """

    suffix = ""

    def __init__(self, jar: str | Path):
        if not Path(jar).is_file():
            raise ValueError(f"no such file: {jar} (meteor-1.5.jar is wanted)")
        command = ["java", "-Xmx2G", "-jar", str(Path(jar).resolve()), "-", "-", "-stdio", "-l", "en", "-norm"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        except FileNotFoundError as error:
            raise ValueError("METEOR 1.5 needs Java, and there is no `java` on the PATH") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def compare(self, pairs: Sequence[tuple[str, str]]) -> tuple[float, list[float]]:
        """The program's value over all pairs together, and the value of each (caption, reference) pair, in 0-1."""
        if not pairs:
            return 0.0, []
        statistics = [
            self._ask(f"SCORE ||| {_ascii(reference)} ||| {_ascii(caption)}") for caption, reference in pairs
        ]
        scores = [float(self._ask(f"EVAL ||| {' ||| '.join(statistics)}"))]
        scores += [float(self._read()) for _ in pairs]
        return scores[-1], scores[:-1]

    def close(self) -> None:
        """Ends the program."""
        self._input.close()
        self._process.wait()

    def _ask(self, line: str) -> str:
        try:
            self._input.write(line + "\n")
            self._input.flush()
        except OSError as error:
            raise ValueError("the METEOR program has ended") from error
        return self._read()

    def _read(self) -> str:
        line = self._output.readline()
        if not line:
            raise ValueError("the METEOR program has ended")
        return line.strip()


def _ascii(caption: str) -> str:
    """The words of a caption without characters outside ASCII, as the challenge's evaluator sends them to METEOR."""
    words = split_words("".join(character if character.isascii() else " " for character in caption))
    if not words and split_words(caption):
        raise ValueError(f"METEOR 1.5 reads English; this caption has no word in ASCII letters: {caption!r}")
    return " ".join(words)


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
