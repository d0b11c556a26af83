"""A5-222K: audio-text pairs for stage II, built from the annotation files of AudioCaps, Clotho, Auto-ACD, WavCaps and
AudioSet, as `load_dataset("a5_222k", audiocaps_file=..., ...)` after `import dataset_builders`.

The paper gives the name and size of the set but not its composition, so the selection (`sources/audio_selection.py`)
is our choice. `release/a5_222k_folder.py` writes it as a folder with a card, which `datasets` loads without this
project.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from .builder_base import AnnotationBuilder
from .input_settings import Files, InputConfig, InputSettings, check_range
from .sources.audio_captions import (
    AudioCaption,
    read_audiocaps,
    read_audioset_labels,
    read_auto_acd,
    read_captioned_clips,
    read_clotho,
    read_wavcaps,
)
from .sources.audio_selection import (
    NUM_PAIRS,
    HeldOutSounds,
    Selected,
    audiocaps_keys,
    blacklist_keys,
    captioned_clip_keys,
    clotho_keys,
    listed_keys,
    select_sounds,
    unav100_keys,
)
from .sources.media_folder import MediaFolder
from .sources.record_report import RecordReport
from .sources.rows import Row, make_row
from .wordings import AUDIO_QUESTIONS, choose_wording


# The sources, the most trusted first: a sound that occurs in two sources is kept in the first.
READERS: dict[str, Callable[..., Iterator[AudioCaption]]] = {
    "audiocaps": read_audiocaps,
    "clotho": read_clotho,
    "captions": read_captioned_clips,
    "auto_acd": read_auto_acd,
    "wavcaps": read_wavcaps,
    "audioset": read_audioset_labels,
}


@dataclass
class A5222KSettings(InputSettings):
    """The sources of the set, the test sets to exclude, and the folders of the sounds.

    Each `*_file` is a path, a list of paths or None; plain or gzipped. Each `*_dir` is a folder of sounds; without it
    a row has the bare file name, by which cached features are looked up.

    Args:
        audiocaps_file, clotho_file, auto_acd_file, wavcaps_file: the training files in their published form.
        audioset_file: AudioSet's segment csv, or LLP's label lists; needs `class_labels_file`.
        class_labels_file: class_labels_indices.csv of AudioSet.
        captions_file: captioned clips in VALOR's format; `clips_dir` is their folder, and clips without sound are
            dropped.
        exclude_audiocaps_file, exclude_clotho_file: the evaluation splits of the two.
        exclude_blacklist_file: the blacklist published with WavCaps.
        exclude_unav100_file: UnAV-100's annotations; the validation and test videos are excluded.
        exclude_captions_file: a captions file in VALOR's format; all its clips are excluded.
        exclude_ids_file: a list of YouTube ids, clip names or file names in any format of `sources.excluded_ids`.
        num_pairs: total number of pairs (222,000 as published); None takes all.
        max_per_text, min_words, max_duration: see `sources.audio_selection.select_sounds`.
        max_missing: share of sounds (0-1) that may be missing from a folder before the build fails.
    """

    audiocaps_file: Files = None
    clotho_file: Files = None
    captions_file: Files = None
    auto_acd_file: Files = None
    wavcaps_file: Files = None
    audioset_file: Files = None
    class_labels_file: Files = None
    exclude_audiocaps_file: Files = None
    exclude_clotho_file: Files = None
    exclude_blacklist_file: Files = None
    exclude_unav100_file: Files = None
    exclude_captions_file: Files = None
    exclude_ids_file: Files = None
    audiocaps_dir: str | None = None
    clotho_dir: str | None = None
    clips_dir: str | None = None
    auto_acd_dir: str | None = None
    wavcaps_dir: str | None = None
    audioset_dir: str | None = None
    num_pairs: int | None = NUM_PAIRS
    max_per_text: int = 1
    min_words: int = 2
    max_duration: float | None = 60.0
    max_missing: float = 0.0

    def check(self) -> None:
        """Raises ValueError for a number out of range."""
        check_range(self, 1, "num_pairs", "max_per_text")
        check_range(self, 0, "min_words", "max_duration", "seed")
        check_range(self, 0, "max_missing", high=1)


@dataclass
class A5222KConfig(A5222KSettings, InputConfig):
    """`A5222KSettings` as a `datasets` configuration."""


def read_sources(config: A5222KSettings, *, report: RecordReport) -> dict[str, Iterator[AudioCaption]]:
    """The records of each configured source, read lazily.

    Raises:
        ValueError: no source, or label files without the list of classes.
    """
    sources: dict[str, Iterator[AudioCaption]] = {}
    for name, reader in READERS.items():
        options = {}
        if name == "audioset" and config.audioset_file is not None:
            classes = config.files("class_labels_file")
            if len(classes) != 1:
                raise ValueError(f"audioset_file needs class_labels_file, one class_labels_indices.csv, got {classes}")
            options = {"class_labels_file": classes[0]}
        if paths := config.files(f"{name}_file"):
            sources[name] = chain.from_iterable(map(partial(reader, report=report, **options), paths))
    if not sources:
        raise ValueError(f"a5_222k needs a source: one of {[f'{name}_file' for name in READERS]}")
    return sources


def read_held_out(config: A5222KSettings) -> HeldOutSounds:
    """The sounds of every configured evaluation set."""
    held_out = HeldOutSounds()
    lists = (
        ("audiocaps", config.files("exclude_audiocaps_file"), audiocaps_keys),
        ("clotho", config.files("exclude_clotho_file"), clotho_keys),
        ("wavcaps_blacklist", config.files("exclude_blacklist_file"), blacklist_keys),
        ("unav100", config.files("exclude_unav100_file"), unav100_keys),
        ("captions", config.files("exclude_captions_file"), captioned_clip_keys),
        ("ids", config.files("exclude_ids_file"), listed_keys),
    )
    for name, paths, read_keys in lists:
        for path in paths:
            held_out.add(name, read_keys(path))
    return held_out


def select_pairs(config: A5222KSettings, *, report: RecordReport) -> list[Selected]:
    """The pairs of the set in order; all dropped records are counted in `report`.

    Raises:
        ValueError: a larger share of media than `max_missing` is missing, or no pair is left.
    """
    config.check()
    report.settings.update(config.settings())
    sources = read_sources(config, report=report)
    media = {
        source: MediaFolder(config.folder(f"{source}_dir"), kind="audio") for source in sources if source != "captions"
    }
    if "captions" in sources:
        media["captions"] = MediaFolder(config.folder("clips_dir"), kind="audio", bare_suffix=".mp4")
    selected = select_sounds(
        sources,
        held_out=read_held_out(config),
        media=media,
        report=report,
        need_sound=("captions",) if config.clips_dir else (),
        num_pairs=config.num_pairs,
        max_per_text=config.max_per_text,
        min_words=config.min_words,
        max_duration=config.max_duration,
        seed=config.seed,
    )
    for folder in media.values():
        folder.check(max_missing=config.max_missing)
    if not selected:
        raise ValueError(f"a5_222k: no pair is left\n{report.summary()}")
    return selected


def pair_row(selected: Selected, *, seed: int = 0) -> Row:
    """The row of one pair: a sound, a question for its caption, the caption."""
    row_id = f"{selected.source}-{selected.pair.record_id}"
    question = choose_wording(AUDIO_QUESTIONS, row_id, seed=seed)
    return make_row(
        row_id,
        source=selected.source,
        turns=[(question, selected.pair.caption)],
        audio=selected.path,
        duration=selected.pair.duration,
    )


class A5222K(AnnotationBuilder):
    """`load_dataset("a5_222k", ...)`."""

    BUILDER_CONFIG_CLASS = A5222KConfig
    DESCRIPTION = "Audio-text pairs for aligning an audio adapter."

    def read_rows(self, report: RecordReport) -> Iterator[Row]:
        """The rows of `select_pairs`, in its order."""
        return (pair_row(selected, seed=self.config.seed) for selected in select_pairs(self.config, report=report))
