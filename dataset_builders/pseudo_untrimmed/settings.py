"""All settings of a PU-VALOR build: one dataclass, its checks, and the hash that names a build.

The paper does not specify the text encoder, the clustering, the scale range, the clips per video and the filters, and
no release contains them. Every default that the paper does not state is marked as our choice.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Features

from ..input_settings import InputSettings, check_positive, check_range, fingerprint_folder
from ..schema import FEATURES, TRACKED_FEATURES, with_rejected
from ..sources.annotation_files import fingerprint
from ..turns import CONVERSATION_TYPES, LISTING, read_conversation_types
from .absent_events import HARD_ABSENT
from .clustering import METHODS, SMALL_CLUSTERS
from .embedding import fingerprint_encoder


CURATION_VERSION = 1  # incremented when the same settings give different rows
VIDEOS_PER_SHARD = {"virtual": 5000, "rendered": 20}  # rendering 20 takes about as long as planning a million
MEDIA = tuple(VIDEOS_PER_SHARD)
RANDOM_GROUPS = "random"
# Named groups of settings. The default is the paper's set; "pu_valor_2" adds quiet, silent and dark stretches, sounds
# over other pictures, overlapping and recurring events, and questions about absent events. All values are our choice.
PRESETS = {
    "pu_valor_2": {
        "overlay": True,
        "gap_share": 0.5,
        "overlap_share": 0.25,
        "recurrence": 0.25,
        "max_repeats": 1,
        "absent_share": 0.3,
        "hard_absent": "nearest",
        "shifted_sound_share": 0.1,
        "muted_sound_share": 0.05,
        "swapped_sound_share": 0.1,
        "silent_share": 0.1,
        "dark_share": 0.1,
        "preferences": True,
    }
}
SOUND_SHARES = ("shifted_sound_share", "muted_sound_share", "swapped_sound_share")
# Fields that do not affect the rows.
PLACES = (
    "data_dir",
    "clips_dir",
    "embeddings_dir",
    "captions_file",
    "exclude_ids_file",
    "backgrounds_file",
    "text_encoder",
)


def pair(first: float, second: float) -> Any:
    """A field whose default is a list of two numbers."""
    return field(default_factory=lambda: [first, second])


@dataclass
class CurationSettings(InputSettings):
    """Settings of the curation.

    Args:
        preset (`str`, *optional*):
            Key of `PRESETS`. Its values replace those of all settings that have their defaults.
        captions_file (`str`):
            Captioned clips: VALOR's JSON, JSON lines or csv, gzipped or not.
        clips_dir (`str`, *optional*):
            Folder of the clips' media files, named by clip id. If given, clips without a readable file are dropped
            and durations are those of the files. Required for `media="rendered"`.
        num_videos (`int`, *optional*, defaults to 114081):
            Videos over all splits, divided in proportion to the clips of each split (the paper's number).
        text_encoder (`str`, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            sentence-transformers model, a Hub id or a folder (our choice).
        clustering (`str`, *optional*, defaults to `"kmeans"`):
            `"kmeans"`, `"agglomerative"` or `"none"`, see `clustering.cluster_clips` (our choice).
        cluster_size (`int`, *optional*, defaults to 20):
            Mean number of clips in a cluster (our choice).
        min_cluster_size (`int`, *optional*):
            Smaller clusters are merged or dropped; by default the upper bound of `clips_per_video`.
        small_clusters (`str`, *optional*, defaults to `"merge"`):
            `"merge"` or `"drop"`.
        clips_per_video, scale_range, max_repeats, repeat_probability:
            See `planning.draw_plan`.
        recurrence (`float`, *optional*, defaults to 0.0):
            See `planning.draw_plan`. 0, as in the paper's set: an event recurs only as a repeated clip.
        gap_share, gap_seconds, overlap_share:
            See `planning.draw_plan`. 0 by default, as in the paper's set.
        overlay (`bool`, *optional*, defaults to `False`):
            Give each video one background clip, repeated to its length, and lay the clips over it: a clip replaces
            only the tracks that its caption record names in `tracks` ("video", "audio" or "both", the default). An
            event that is only heard then leaves the picture unchanged, as in an untrimmed video (our choice).
        backgrounds_file (`str`, *optional*):
            Ids of clips without an event, used to fill gaps: one id per line, or a JSON list. None: gaps are black and
            silent, which only rendered videos support.
        background_noise_snr_db (`float`, *optional*, defaults to 20.0):
            Signal-to-noise ratio in dB of the noise added to rendered videos (the paper adds noise; the level is our
            choice). None: no noise.
        coherence_threshold (`float` or `"random"`, *optional*, defaults to `"random"`):
            Minimum mean cosine of a video's events; `"random"` is the mean cosine of random groups of the same
            captions, so that each video is at least as coherent as chance. None: no such filter.
        ambiguity_threshold (`float`, *optional*, defaults to 0.9):
            Largest cosine of two different events of a video (our choice). None: no such filter.
        duration_range (`tuple(float, float)`, *optional*):
            Allowed duration of a whole video in seconds; None: any.
        exclude_ids_file (`str`, *optional*):
            Clip ids or YouTube ids to exclude, for example a benchmark's test videos.
        conversation_types (`tuple(str)`, *optional*, defaults to `("T1", "T2", "T3")`):
            Dense narration, grounding, segment caption; drawn with equal probability for each video.
        min_turns, max_turns (`int`, *optional*, default to 1 and 3):
            Minimum and maximum number of questions of a T2 or T3 conversation (our choice). A narration is one
            question.
        absent_share (`float`, *optional*, defaults to 0.0):
            Probability that a grounding question is about an event that does not occur (`absent_events.draw_absent`).
        hard_absent (`str`, *optional*, defaults to `"cluster"`):
            Which captions of the video's cluster half of these events are drawn from: `"cluster"`, all, or
            `"nearest"`, those closest to the captions of the video.
        shifted_sound_share, muted_sound_share, swapped_sound_share (`float`, *optional*, default to 0.0):
            Probabilities that the sounds of a video's events are moved by 1 to 5 s, that they are replaced by the
            background's, and that the sound of one of them is replaced by another clip's; see `counterfactual_sound`.
            They need `overlay`.
        silent_share, dark_share (`float`, *optional*, default to 0.0):
            Probabilities that a gap is silent, and that it is black. They need `overlay` and `gap_share`.
        preferences (`bool`, *optional*, defaults to `False`):
            Give the questions about when an event happens a wrong answer where one is known (column `rejected`): the
            time at which a sound was before it was changed, a time for an absent event, or one span for several.
        media (`str`, *optional*, defaults to `"virtual"`):
            `"virtual"`: rows only. `"rendered"`: one mp4 per row as well.
        clip_duration, min_clip_duration, min_caption_words, caption_field:
            See `captions.read_clips`.
        render_size, render_fps (*optional*, default to `(480, 360)` and 25):
            Width, height and frame rate of rendered videos (our choice).
        videos_per_shard (`int`, *optional*):
            Rows of one Parquet shard, the unit of work and of resuming; by default 5000, or 20 rendered ones.
        embeddings_dir (`str`, *optional*):
            Cache folder of caption embeddings, shared by builds.
        seed (`int`, *optional*, defaults to 0):
            Random seed of all draws.

    Raises:
        ValueError: a value outside its range; the message names the setting and the expected range.
    """

    preset: str | None = None
    captions_file: str | None = None
    clips_dir: str | None = None
    num_videos: int = 114081
    text_encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    clustering: str = "kmeans"
    cluster_size: int = 20
    min_cluster_size: int | None = None
    small_clusters: str = "merge"
    clips_per_video: list[int] = pair(3, 8)
    scale_range: list[float] = pair(0.6, 1.9)
    max_repeats: int = 2
    repeat_probability: float = 0.15
    recurrence: float = 0.0
    gap_share: float = 0.0
    gap_seconds: list[float] = pair(0.5, 5.0)
    backgrounds_file: str | None = None
    overlap_share: float = 0.0
    overlay: bool = False
    background_noise_snr_db: float | None = 20.0
    coherence_threshold: float | str | None = RANDOM_GROUPS
    ambiguity_threshold: float | None = 0.9
    duration_range: list[float] | None = None
    exclude_ids_file: list[str] | None = None
    conversation_types: list[str] = field(default_factory=lambda: list(CONVERSATION_TYPES))
    min_turns: int = 1
    max_turns: int = 3
    absent_share: float = 0.0
    hard_absent: str = "cluster"
    shifted_sound_share: float = 0.0
    muted_sound_share: float = 0.0
    swapped_sound_share: float = 0.0
    silent_share: float = 0.0
    dark_share: float = 0.0
    preferences: bool = False
    media: str = "virtual"
    clip_duration: float = 10.0
    min_clip_duration: float = 1.0
    min_caption_words: int = 2
    caption_field: str | None = None
    render_size: list[int] = pair(480, 360)
    render_fps: float = 25.0
    videos_per_shard: int | None = None
    embeddings_dir: str | None = None

    def check(self) -> None:
        """Apply the preset, normalise sequences to lists, and raise for values outside their range."""
        self.apply_preset()
        choices = {
            "clustering": METHODS,
            "small_clusters": SMALL_CLUSTERS,
            "media": MEDIA,
            "hard_absent": HARD_ABSENT,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        self.clips_per_video = check_pair("clips_per_video", self.clips_per_video, least=1, whole=True)
        self.scale_range = check_pair("scale_range", self.scale_range, least=0.01)
        self.gap_seconds = check_pair("gap_seconds", self.gap_seconds, least=0.01)
        if self.duration_range is not None:
            self.duration_range = check_pair("duration_range", self.duration_range, least=0)
        self.render_size = check_pair("render_size", self.render_size, least=2, whole=True, ordered=False)
        if any(size % 2 for size in self.render_size):
            raise ValueError(f"render_size must be even numbers (4:2:0 chroma), got {self.render_size}")
        self.conversation_types = list(
            read_conversation_types(self.conversation_types, allowed=(*CONVERSATION_TYPES, LISTING))
        )
        if self.min_turns > self.max_turns:
            raise ValueError(f"min_turns={self.min_turns} is more than max_turns={self.max_turns}")
        counts = ("num_videos", "cluster_size", "min_cluster_size", "max_repeats", "min_turns", "max_turns")
        check_range(self, 1, *counts, "videos_per_shard", "render_fps")
        check_range(self, 0, "seed", "min_clip_duration", "min_caption_words")
        check_positive(self, "clip_duration")
        check_range(self, -1, "ambiguity_threshold", high=1)
        check_range(self, -100, "background_noise_snr_db", high=100)  # dB
        check_range(self, 0, "repeat_probability", "recurrence", "gap_share", "overlap_share", "absent_share", high=1)
        check_range(self, 0, *SOUND_SHARES, "silent_share", "dark_share", high=1)
        if self.changed_sound_share > 1:
            raise ValueError(f"{', '.join(SOUND_SHARES)} must not add up to more than 1")
        if self.changed_sound_share and not self.overlay:
            raise ValueError(f"{', '.join(SOUND_SHARES)} need overlay: the background is heard instead")
        if (self.silent_share or self.dark_share) and not (self.overlay and self.gap_share):
            raise ValueError(
                "silent_share and dark_share need overlay and gap_share: they hide the background of gaps"
            )
        self.coherence_threshold = read_threshold(self.coherence_threshold)
        if self.captions_file is None:
            raise ValueError("pu_valor needs a captions_file, for example VALOR-32K's desc_train.json")
        if self.media == "rendered" and self.clips_dir is None:
            raise ValueError("media='rendered' needs clips_dir, the folder of the clips' media files")
        if self.overlay and self.backgrounds_file is None:
            raise ValueError("overlay needs backgrounds_file, the ids of the clips that events are laid over")
        if self.gap_share and self.backgrounds_file is None and self.media == "virtual":
            raise ValueError("gap_share needs backgrounds_file: the features of dark and silent gaps are not known")

    def apply_preset(self) -> None:
        """Give every setting of the preset that has its default the preset's value."""
        if self.preset is None:
            return
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {self.preset!r}")
        defaults = {field.name: field.default for field in dataclasses.fields(CurationSettings)}
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) == defaults[name]:
                setattr(self, name, value)

    @property
    def least_cluster_size(self) -> int:
        """Minimum number of clips of a cluster."""
        return self.clips_per_video[1] if self.min_cluster_size is None else self.min_cluster_size

    @property
    def changed_sound_share(self) -> float:
        """Share of the videos whose sounds are changed."""
        return sum(getattr(self, name) for name in SOUND_SHARES)

    @property
    def needs_embeddings(self) -> bool:
        """False only without clustering, filters on cosines and nearest absent events."""
        thresholds = (self.coherence_threshold, self.ambiguity_threshold)
        return self.clustering != "none" or thresholds != (None, None) or self.hard_absent == "nearest"

    @property
    def row_features(self) -> Features:
        """The columns of the rows."""
        features = TRACKED_FEATURES if self.overlay else FEATURES
        return with_rejected(features) if self.preferences else features

    @property
    def shard_rows(self) -> int:
        """Rows of one Parquet shard."""
        return VIDEOS_PER_SHARD[self.media] if self.videos_per_shard is None else self.videos_per_shard

    def values(self) -> dict[str, Any]:
        """The settings by name, with files replaced by hashes of their contents, so that paths do not matter."""
        table = {field.name: getattr(self, field.name) for field in dataclasses.fields(CurationSettings)}
        table = {name: value for name, value in table.items() if name not in PLACES}
        clips_dir = self.folder("clips_dir")
        return {
            **table,
            "videos_per_shard": self.shard_rows,
            "captions": fingerprint(self.files("captions_file")),
            "excluded_ids": fingerprint(self.files("exclude_ids_file")) if self.exclude_ids_file else None,
            "backgrounds": fingerprint(self.files("backgrounds_file")) if self.backgrounds_file else None,
            "encoder": fingerprint_encoder(self.text_encoder) if self.needs_embeddings else None,
            "clips": None if clips_dir is None else fingerprint_folder(clips_dir),
            "curation_version": CURATION_VERSION,
        }


def check_pair(name: str, value: Sequence[float], *, least: float, whole: bool = False, ordered: bool = True) -> list:
    """Two finite numbers of at least `least` as a list; `whole` ones, and `ordered` as (low, high).

    Raises:
        ValueError: anything else; the message has the name and the value.
    """
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    kinds = int if whole else (int, float)
    is_right = len(numbers) == 2 and all(isinstance(n, kinds) and least <= n < math.inf for n in numbers)
    if not is_right or (ordered and numbers[0] > numbers[1]):
        rule = f"(low, high) with {least} <= low <= high" if ordered else f"two numbers of at least {least}"
        raise ValueError(f"{name} must be {'whole numbers, ' if whole else ''}{rule}, got {value}")
    return numbers


def read_threshold(value: str | float | None) -> str | float | None:
    """`coherence_threshold` from a number, `"random"` or None; a command line passes them as text.

    >>> read_threshold("0.3"), read_threshold("random"), read_threshold("none")
    (0.3, 'random', None)
    """
    if value is None or value == RANDOM_GROUPS:
        return value
    if str(value).lower() == "none":
        return None
    try:
        cosine = float(value)
    except (ValueError, TypeError):
        cosine = math.nan
    if not -1 <= cosine <= 1:
        raise ValueError(
            f"coherence_threshold must be a cosine from -1 to 1, {RANDOM_GROUPS!r} or None, got {value!r}"
        )
    return cosine
