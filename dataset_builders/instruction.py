"""Real annotated videos for stages III and IV as `load_dataset("instruction", "<source>", annotations_file=...)`.

One configuration per source: events with times (UnAV-100, ActivityNet Captions, DiDeMo, Charades-STA, QVHighlights,
InternVid, any VTimeLLM JSON) and questions about whole videos (AVSD, MUSIC-AVQA, ActivityNet-QA, VideoInstruct100K and
its like). The formats are read in `sources/`; how sources are mixed is said in `mixture.py` and the training recipe.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .builder_base import AnnotationBuilder
from .input_settings import Files, InputConfig
from .release.curation_report import CurationReport
from .sources import questions, timed_events
from .sources.captions import read_excluded_ids
from .sources.event_turns import CONVERSATION_TYPES, absent_labels, event_rows
from .sources.media_folder import MediaFolder
from .sources.questions import QuestionedVideo, question_rows
from .sources.rows import Row, of_file
from .sources.timed_events import TimedVideo
from .sources.vtimellm import read_vtimellm


# Which questions a source's annotation can answer. A narration needs every event of the video to be annotated: DiDeMo,
# Charades-STA and QVHighlights annotate single moments, and QVHighlights' windows do not carry a description each.
EVENT_SOURCES = {
    "unav100": CONVERSATION_TYPES,
    "activitynet_captions": CONVERSATION_TYPES,
    "internvid": CONVERSATION_TYPES,
    "didemo": ("grounding", "segment"),
    "charades_sta": ("grounding", "segment"),
    "qvhighlights": ("grounding",),
}
# Whether the answers are one word or two, so that some wordings may ask for that.
QUESTION_SOURCES = {"avsd": False, "music_avqa": True, "activitynet_qa": True, "video_instruct": False}


@dataclass
class InstructionConfig(InputConfig):
    """One source of annotated videos; its name says the format.

    Args:
        annotations_file: one file or several of the source, plain or gzipped.
        answers_file: ActivityNet-QA's answers, one file for each of questions.
        durations_file: seconds by video id for Charades-STA, whose file has none (`timed_events.read_durations`);
            without it they are read from the media of `media_dir`.
        media_dir: folder of the videos; None leaves bare file names in the rows.
        subset: UnAV-100's "train", "validation" or "test"; for the other sources it only names the split.
        conversation_types: of "narration", "grounding", "segment"; None asks what the source can answer.
        num_absent: UnAV-100 only: questions per video for classes that do not occur in it, answered by that (our choice:
            1; a model that was never asked in vain finds everything everywhere).
        absent_share: UnAV-100 only, in place of num_absent: share of the grounding questions that are about classes which do
            not occur in the video.
        max_turns: questions to a row; more go on in a further row of the same video.
        max_missing: share of the videos (0-1) that may be missing from `media_dir` before the build fails.
        exclude_ids_file: ids of videos to leave out, one a line or a JSON list.
    """

    annotations_file: Files = None
    answers_file: Files = None
    durations_file: str | Path | None = None
    exclude_ids_file: Files = None
    media_dir: str | None = None
    subset: str = "train"
    conversation_types: Sequence[str] | None = None
    num_absent: int = 1
    absent_share: float | None = None
    max_turns: int = 10
    max_missing: float = 0.0


class ProbedDurations(Mapping):
    """Seconds by video id, read from the header of its file when asked for; absent where there is no readable file."""

    def __init__(self, media: MediaFolder):
        self._media = media

    def __getitem__(self, video_id: str) -> float:
        from modeling_avicuna.media_avicuna import MediaError, probe

        path = self._media.locate((video_id,))
        if path is None:
            raise KeyError(video_id)
        try:
            return probe(path).duration
        except MediaError as error:
            raise KeyError(video_id) from error

    def __iter__(self):
        raise TypeError("durations are read one by one")

    def __len__(self) -> int:
        raise TypeError("durations are read one by one")


def read_videos(
    config: InstructionConfig, path: Path, *, media: MediaFolder, report: CurationReport
) -> Iterator[TimedVideo | QuestionedVideo]:
    """The records of one annotation file of the configuration's source."""
    match config.name:
        case "unav100":
            return timed_events.read_unav100(path, split=config.subset, report=report)
        case "activitynet_captions":
            return timed_events.read_activitynet_captions(path, report=report)
        case "charades_sta":
            given = config.files("durations_file")
            durations = timed_events.read_durations(given[0]) if given else ProbedDurations(media)
            return timed_events.read_charades_sta(path, durations=durations, report=report)
        case "didemo":
            return timed_events.read_didemo(path, report=report)
        case "qvhighlights":
            return timed_events.read_qvhighlights(path, report=report)
        case "internvid":
            return timed_events.read_internvid(path, report=report)
        case "avsd":
            return questions.read_avsd(path, report=report)
        case "music_avqa":
            return questions.read_music_avqa(path, report=report)
        case "activitynet_qa":
            files, answers = config.files("annotations_file"), config.files("answers_file")
            if len(files) != len(answers):
                raise ValueError(f"{len(files)} files of questions but {len(answers)} of answers")
            return questions.read_activitynet_qa(path, answers[files.index(path)], report=report)
        case "video_instruct":
            return questions.read_question_answers(path, source="video_instruct", report=report)
    raise ValueError(f"unknown source {config.name!r}, known: {sorted([*EVENT_SOURCES, *QUESTION_SOURCES])}")


def read_rows(config: InstructionConfig, *, report: CurationReport) -> Iterator[Row]:
    """The rows of every annotation file, in order. The report counts events, or turns, not rows.

    Raises:
        ValueError: no annotation file, or more videos missing than `max_missing` allows.
    """
    paths = config.files("annotations_file")
    if not paths:
        raise ValueError(f"instruction/{config.name} needs annotations_file")
    media = MediaFolder(config.folder("media_dir"))
    excluded = {name for path in config.files("exclude_ids_file") for name in read_excluded_ids(path)}
    for number, path in enumerate(paths):
        if config.name == "vtimellm":
            rows = _conversation_rows(path, media=media, excluded=excluded, report=report)
            yield from of_file(rows, number)
            continue
        vocabulary = timed_events.unav100_labels(path) if config.name == "unav100" else ()
        for video in read_videos(config, path, media=media, report=report):
            rows = _video_rows(video, config, media=media, excluded=excluded, vocabulary=vocabulary, report=report)
            yield from of_file(rows, number)
    media.check(max_missing=config.max_missing)


def _conversation_rows(path: Path, *, media: MediaFolder, excluded: set[str], report: CurationReport) -> Iterator[Row]:
    """The rows of a VTimeLLM file, which are conversations already; compositions of clips need no media file."""
    reading = CurationReport()
    for row in read_vtimellm(path, report=reading):
        video = row["media"]["video"]
        if video is not None and excluded & {video, Path(video).stem}:
            report.drop("vtimellm", row["id"], "excluded_id")
        elif video is None or row["segments"]:
            report.keep("vtimellm")
            yield row
        elif (found := media.find_or_drop((video,), source="vtimellm", report=report)) is not None:
            report.keep("vtimellm")
            yield {**row, "media": {**row["media"], "video": found}}
    report.read("vtimellm", num=reading.num_read["vtimellm"])
    for entry in reading.entries:
        report.drop("vtimellm", entry["id"], entry["reason"], detail=entry.get("detail"))


def _video_rows(
    video: TimedVideo | QuestionedVideo,
    config: InstructionConfig,
    *,
    media: MediaFolder,
    excluded: set[str],
    vocabulary: Sequence[str],
    report: CurationReport,
) -> Iterator[Row]:
    """The rows of one video, none of them, told to the report, where it is excluded or missing."""
    num = len(video.events if isinstance(video, TimedVideo) else video.turns)
    if excluded.intersection(video.media_names):
        report.drop(config.name, video.media_names[0], "excluded_id", num=num)
        return
    path = media.find_or_drop(video.media_names, source=config.name, report=report, num=num)
    if path is None:
        return
    report.keep(config.name, num=num)
    if isinstance(video, TimedVideo):
        kinds = config.conversation_types or EVENT_SOURCES[config.name]
        yield from event_rows(
            video,
            source=config.name,
            media=path,
            conversation_types=kinds,
            absent=absent_labels(video, vocabulary, num=count_absent(video, config), seed=config.seed),
            max_turns=config.max_turns,
            seed=config.seed,
        )
    else:
        yield from question_rows(
            video,
            source=config.name,
            media=path,
            short_answers=QUESTION_SOURCES[config.name],
            max_turns=config.max_turns,
            seed=config.seed,
        )


def count_absent(video: TimedVideo, config: InstructionConfig) -> int:
    """How many classes that do not occur in the video are asked about.

    Raises:
        ValueError: `absent_share` is not a share below 1.
    """
    share = config.absent_share
    if share is None:
        return config.num_absent
    if not 0 <= share < 1:
        raise ValueError(f"absent_share must be at least 0 and below 1, got {share}")
    return round(share / (1 - share) * len({event.text for event in video.events}))


class Instruction(AnnotationBuilder):
    """`load_dataset("instruction", "<source>", ...)`: one configuration per source."""

    BUILDER_CONFIG_CLASS = InstructionConfig
    BUILDER_CONFIGS = [InstructionConfig(name=name) for name in (*EVENT_SOURCES, *QUESTION_SOURCES, "vtimellm")]
    DESCRIPTION = "Annotated videos as questions and answers."

    def read_rows(self, report: CurationReport) -> Iterator[Row]:
        """See `read_rows` above."""
        return read_rows(self.config, report=report)

    @property
    def split(self) -> str:
        """The subset that the configuration names."""
        return self.config.subset
