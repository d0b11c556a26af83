"""Selects the pairs of A5-222K from captioned sounds of several sources.

`select_sounds` runs the steps in order: normalize, exclude the test sets, de-duplicate, find the media, take each
source's share. Every dropped record is counted with its reason. `HeldOutSounds` are the sounds of the test sets.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .annotation_files import read_json
from .audio_captions import (
    AudioCaption,
    captioned_clip_key,
    freesound_name_key,
    read_audiocaps,
    read_clotho,
)
from .captions import read_records
from .clip_ids import stem_of, youtube_id_of
from .excluded_ids import read_excluded_ids
from .media_folder import MediaFolder
from .media_probe import check_media
from .published_events import read_unav100
from .record_report import RecordReport
from .records import UnusableRecord, count_drop, refuse, text_of
from .text_cleaning import caption_key, normalize_caption, split_words


# The paper gives "about 222K" and no proportions; the shares are our choice: all human captions (AudioCaps, Clotho),
# then mostly Auto-ACD, which the paper names first, then WavCaps and label captions. The five add up to 222,000.
# Captioned clips in VALOR's format are not part of the published set; if given, they have their own share.
TARGET_MIX = {
    "audiocaps": 50_000,
    "clotho": 20_000,
    "auto_acd": 92_000,
    "wavcaps": 40_000,
    "audioset": 20_000,
    "captions": 25_000,
}
NUM_PAIRS = 222_000


@dataclass(frozen=True)
class Selected:
    """A selected pair: the normalized caption, its source and the path of its sound."""

    source: str
    pair: AudioCaption
    path: str


@dataclass
class HeldOutSounds:
    """Sounds of evaluation sets that must not be trained on: the name of the set by audio key."""

    names: dict[str, str] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)

    def add(self, name: str, keys: Iterable[str]) -> None:
        """Exclude the sounds of `keys` as those of the set `name`; a key keeps its first name."""
        for key in keys:
            self.names.setdefault(key, name)

    def find(self, keys: Iterable[str]) -> str | None:
        """The name of the set that contains one of `keys`, or None."""
        name = next((self.names[key] for key in keys if key in self.names), None)
        if name is not None:
            self.met.add(name)
        return name

    def warn_if_unmet(self) -> None:
        """A warning that names the sets with no matching sound, which are probably the wrong lists."""
        unmet = sorted(set(self.names.values()) - self.met)
        if unmet:
            warnings.warn(f"no sound of {unmet} occurs in the data: nothing was excluded by them", stacklevel=2)


def audiocaps_keys(path: str | Path) -> Iterator[str]:
    """Keys of the sounds of an AudioCaps csv. Raises ValueError for a row that cannot be read."""
    return _keys_of_all(path, read_audiocaps)


def clotho_keys(path: str | Path) -> Iterator[str]:
    """Keys of the sounds of a Clotho csv. Raises ValueError for a row that cannot be read."""
    return _keys_of_all(path, read_clotho)


def _keys_of_all(path: str | Path, read: Callable[..., Iterator[AudioCaption]]) -> Iterator[str]:
    report = RecordReport()
    for pair in read(path, report=report):
        yield from pair.audio_keys
    for entry in report.entries:
        raise ValueError(
            f"{path}: {entry['id']}: {entry['reason']} ({entry.get('detail')}): its sound would not be excluded"
        )


def blacklist_keys(path: str | Path) -> Iterator[str]:
    """Keys of WavCaps' blacklist: `{"AudioSet": ["Y<id>.wav"], "FreeSound": ["<id>"]}`.

    Raises:
        ValueError: the file has another format.
    """
    lists = read_json(path)
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise ValueError(f"{path} is not an object of lists of ids, as WavCaps' blacklist is")
    unknown = sorted(set(lists) - {"AudioSet", "FreeSound"})
    if unknown:
        raise ValueError(f"{path} has lists of {unknown}, known are AudioSet and FreeSound")
    for name in lists.get("AudioSet", ()):
        youtube_id = youtube_id_of(name) if isinstance(name, str) else None
        if youtube_id is None:
            raise ValueError(f"{path}: {name!r} in the list of AudioSet has no YouTube id")
        yield f"youtube:{youtube_id}"
    yield from (f"freesound:{sound_id}" for sound_id in lists.get("FreeSound", ()))


def unav100_keys(path: str | Path) -> Iterator[str]:
    """Keys of UnAV-100's validation and test videos."""
    videos = read_unav100(path, drop=refuse(path))
    return (f"youtube:{video.video_id}" for video in videos if video.subset != "train")


def captioned_clip_keys(path: str | Path) -> Iterator[str]:
    """Keys of the clips of a captions file in VALOR's format, of any split.

    Raises:
        ValueError: a record without an id.
    """
    for number, record in enumerate(read_records(path), start=1):
        try:
            yield captioned_clip_key(text_of(record, "id"))
        except UnusableRecord as error:
            raise ValueError(f"{path}, record {number}: {error}") from error


def listed_keys(path: str | Path) -> Iterator[str]:
    """Keys of a list of ids in any format of `excluded_ids`: YouTube ids, names of clips or files, or keys."""
    for name in read_excluded_ids(path):
        youtube_id = youtube_id_of(name)
        stem = stem_of(name)
        yield from (name, f"clip:{stem}", freesound_name_key(stem))
        if stem.isdecimal():
            yield f"freesound:{stem}"
        if youtube_id is not None:
            yield f"youtube:{youtube_id}"


def select_sounds(
    sources: Mapping[str, Iterable[AudioCaption]],
    *,
    held_out: HeldOutSounds,
    media: Mapping[str, MediaFolder],
    report: RecordReport,
    need_sound: Collection[str] = (),
    num_pairs: int | None = NUM_PAIRS,
    max_per_text: int = 1,
    min_words: int = 2,
    max_duration: float | None = 60.0,
    seed: int = 0,
) -> list[Selected]:
    """The selection, in the order of `sources` and of their files.

    Args:
        sources: records by source, the most trusted first: a sound or a text that occurs in two sources is kept in the
            first. Within a source, several captions of one sound are several pairs (Clotho has five).
        held_out: sounds that must not be trained on.
        media: the folder of each source; a sound that is not in it is dropped as "missing_media".
        need_sound: sources whose files may be videos without sound; these are dropped.
        num_pairs: total number of pairs, divided by `TARGET_MIX`; None selects all.
        max_per_text: pairs that may have the same caption (our choice: one).
        min_words: captions with fewer words are dropped (our choice: 2; AudioCaps has "On|on").
        max_duration: seconds; longer sounds are dropped (our choice: 60, WavCaps has one of 2,438). None: no limit.
    """
    owners: dict[str, str] = {}
    texts: Counter[str] = Counter()
    found: dict[str, list[Selected]] = {}
    for source, pairs in sources.items():
        found[source], ids = [], set()
        for pair in pairs:
            pair = replace(pair, caption=normalize_caption(pair.caption))
            text = caption_key(pair.caption)
            with count_drop(report, source, pair.record_id, detail=pair.caption):
                if pair.record_id in ids:  # the same file given twice, or in two versions
                    raise UnusableRecord(None, "duplicate_id")
                ids.add(pair.record_id)
                _check_pair(pair, text, min_words=min_words, max_duration=max_duration)
                _check_overlap(source, pair, held_out, owners)
                if texts[text] >= max_per_text:
                    raise UnusableRecord(None, "duplicate_text")
                path = media[source].find(pair.media_names)
                if source in need_sound:
                    check_media(path, "sound")
                texts[text] += 1
                owners.update(dict.fromkeys(pair.audio_keys, source))
                found[source].append(Selected(source, pair, path))
    held_out.warn_if_unmet()
    shares = share_out({source: len(pairs) for source, pairs in found.items()}, num_pairs=num_pairs)
    report.settings["target_mix"] = dict(TARGET_MIX)
    report.settings["mix"] = {
        source: {"target": TARGET_MIX[source], "usable": len(pairs), "taken": shares[source]}
        for source, pairs in found.items()
    }
    selected = []
    for source, usable in found.items():
        taken = take_sample(usable, num=shares[source], seed=seed)
        report.leave_out(source, "not_sampled", num=len(usable) - len(taken))
        report.keep(source, num=len(taken))
        selected += taken
    return selected


def _check_pair(pair: AudioCaption, text: str, *, min_words: int, max_duration: float | None) -> None:
    if not any(letter.isalpha() for letter in text):
        raise UnusableRecord(None, "caption_without_words")
    if len(split_words(text)) < min_words or len(split_words(pair.caption)) < min_words:
        raise UnusableRecord(None, "caption_too_short")
    if max_duration is not None and pair.duration is not None and pair.duration > max_duration:
        raise UnusableRecord(pair.duration, "audio_too_long")


def _check_overlap(source: str, pair: AudioCaption, held_out: HeldOutSounds, owners: Mapping[str, str]) -> None:
    test_set = held_out.find(pair.audio_keys)
    if test_set is not None:
        raise UnusableRecord(test_set, "in_test_set")
    owner = next((owners[key] for key in pair.audio_keys if owners.get(key, source) != source), None)
    if owner is not None:
        raise UnusableRecord(owner, "duplicate_audio")


def share_out(usable: Mapping[str, int], *, num_pairs: int | None) -> dict[str, int]:
    """Number of pairs of each source: `num_pairs` in proportion to TARGET_MIX, limited to the number that the source
    has.

    The shortfall of a small source is taken from the others in the same proportion, so that the sum is `num_pairs` if
    the sources have that many pairs.

    >>> share_out({"audiocaps": 10, "clotho": 100}, num_pairs=60)
    {'audiocaps': 10, 'clotho': 50}
    """
    if num_pairs is None or sum(usable.values()) <= num_pairs:
        return dict(usable)
    shares: dict[str, int] = {}
    open_sources = dict(usable)
    while True:
        left, weight = num_pairs - sum(shares.values()), sum(TARGET_MIX[source] for source in open_sources)
        full = {name: num for name, num in open_sources.items() if num * weight <= TARGET_MIX[name] * left}
        if not full:
            break
        shares |= full
        open_sources = {name: num for name, num in open_sources.items() if name not in full}
    exact = {name: left * TARGET_MIX[name] / weight for name in open_sources}
    shares |= {name: int(value) for name, value in exact.items()}
    largest_remainders = sorted(exact, key=lambda name: int(exact[name]) - exact[name])
    for name in largest_remainders[: num_pairs - sum(shares.values())]:
        shares[name] += 1
    return {name: shares[name] for name in usable}


def take_sample(pairs: list[Selected], *, num: int, seed: int) -> list[Selected]:
    """`num` of `pairs` in their order, chosen by a hash of `seed` and their ids."""
    if num >= len(pairs):
        return pairs

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{pairs[index].source}\0{pairs[index].pair.record_id}".encode()).digest()

    return [pairs[index] for index in sorted(sorted(range(len(pairs)), key=rank)[:num])]
