"""Real annotated videos for stages III and IV as `load_dataset("instruction", "<source>", annotations_file=...)`.

One configuration per source: events with times (UnAV-100, ActivityNet Captions, DiDeMo, Charades-STA, QVHighlights,
InternVid), conversations in VTimeLLM's format, and questions about whole videos (AVSD, MUSIC-AVQA, ActivityNet-QA,
VideoInstruct100K and similar files). The formats are read in `sources/`; sources are mixed by `sources/mixture.py`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .builder_base import AnnotationBuilder
from .input_settings import Files, InputConfig, check_range
from .sources import questions, timed_events
from .sources.event_turns import CONVERSATION_TYPES, absent_labels, event_rows
from .sources.excluded_ids import ExcludedIds
from .sources.media_folder import MediaFolder
from .sources.media_probe import check_media
from .sources.published_events import read_durations
from .sources.questions import QuestionedVideo, question_rows
from .sources.record_report import RecordReport
from .sources.records import count_drop
from .sources.rows import Row, of_file
from .sources.timed_events import TimedVideo
from .sources.vtimellm import read_conversations


# The questions that a source's annotation can answer. A narration needs every event of the video to be annotated:
# DiDeMo, Charades-STA and QVHighlights annotate single moments, and QVHighlights' windows have no individual
# descriptions.
EVENT_SOURCES = {
    "unav100": CONVERSATION_TYPES,
    "activitynet_captions": CONVERSATION_TYPES,
    "internvid": CONVERSATION_TYPES,
    "didemo": ("grounding", "segment"),
    "charades_sta": ("grounding", "segment"),
    "qvhighlights": ("grounding",),
}
# Whether the answers are one or two words long, so that some wordings may ask for a short answer.
QUESTION_SOURCES = {"avsd": False, "music_avqa": True, "activitynet_qa": True, "video_instruct": False}


@dataclass
class InstructionConfig(InputConfig):
    """One source of annotated videos; its name is the format.

    Args:
        annotations_file: one or several files of the source, plain or gzipped.
        answers_file: ActivityNet-QA's answers, one file for each file of questions.
        durations_file: seconds by video id, for annotations without durations (Charades-STA), in a format of
            `published_events.read_durations`; without it they are read from the media of `media_dir`.
        media_dir: folder of the videos; None: rows have bare file names. A video whose annotated duration differs
            from that of its file (`timed_events.durations_differ`) is dropped.
        subset: UnAV-100's "train", "validation" or "test"; for the other sources only the name of the split.
        conversation_types: of "narration", "grounding", "segment"; None: all that the source supports.
        num_absent: UnAV-100 only: questions per video about classes that do not occur in it, with an answer that says
            so (our choice: 1; a model trained without them gives times for any query).
        absent_share: UnAV-100 only, in place of num_absent: the share (0-1) of the grounding questions that are about
            classes that do not occur in the video.
        max_turns: maximum questions per row; the remaining ones go in additional rows of the same video.
        max_missing: share of the videos (0-1) that may be missing from `media_dir` before the build fails.
        exclude_ids_file: ids of videos to exclude, in any format of `sources.excluded_ids`.
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

    def check(self) -> None:
        """Raises ValueError for a number out of range."""
        check_range(self, 1, "max_turns")
        check_range(self, 0, "num_absent", "seed")
        check_range(self, 0, "max_missing", "absent_share", high=1)
        if self.absent_share == 1:
            raise ValueError(f"absent_share must be at least 0 and below 1, got {self.absent_share}")


def read_questioned(config: InstructionConfig, path: Path, *, report: RecordReport) -> Iterator[QuestionedVideo]:
    """The videos of one file of questions."""
    match config.name:
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


def read_rows(config: InstructionConfig, *, report: RecordReport) -> Iterator[Row]:
    """The rows of every annotation file, in order. The report counts events, or turns, not rows.

    Raises:
        ValueError: no annotation file, a file in another format, or more videos missing than `max_missing` allows.
    """
    config.check()
    paths = config.files("annotations_file")
    if not paths:
        raise ValueError(f"instruction/{config.name} needs annotations_file")
    media = MediaFolder(config.folder("media_dir"), kind="video")
    excluded = ExcludedIds.from_files(config.files("exclude_ids_file"))
    for number, path in enumerate(paths):
        if config.name == "vtimellm":
            rows = read_conversations(path, media=media, excluded=excluded, report=report)
        elif config.name in EVENT_SOURCES:
            rows = _timed_rows(config, path, media=media, excluded=excluded, report=report)
        else:
            rows = _questioned_rows(config, path, media=media, excluded=excluded, report=report)
        yield from of_file(rows, number)
    excluded.warn_if_unmet("exclude_ids_file")
    media.check(max_missing=config.max_missing)


def _questioned_rows(
    config: InstructionConfig, path: Path, *, media: MediaFolder, excluded: ExcludedIds, report: RecordReport
) -> Iterator[Row]:
    for video in read_questioned(config, path, report=report):
        num = len(video.turns)
        with count_drop(report, config.name, video.media_names[0], num=num):
            excluded.check(video.media_names)
            found = media.find(video.media_names)
            report.keep(config.name, num=num)
            yield from question_rows(
                video,
                source=config.name,
                media=found,
                short_answers=QUESTION_SOURCES[config.name],
                max_turns=config.max_turns,
                seed=config.seed,
            )


def count_absent(video: TimedVideo, config: InstructionConfig) -> int:
    """Number of questions about classes that do not occur in the video."""
    share = config.absent_share
    if share is None:
        return config.num_absent
    return round(share / (1 - share) * len({event.text for event in video.events}))


def _timed_rows(
    config: InstructionConfig, path: Path, *, media: MediaFolder, excluded: ExcludedIds, report: RecordReport
) -> Iterator[Row]:
    given = config.files("durations_file")
    durations = read_durations(given[0]) if given else {}
    vocabulary = timed_events.unav100_labels(path) if config.name == "unav100" else ()
    for unclean in timed_events.read_videos(config.name, path, subset=config.subset, report=report):
        video = unclean.video
        if video.duration is None and video.video_id in durations:
            unclean = dataclasses.replace(
                unclean, video=dataclasses.replace(video, duration=durations[video.video_id])
            )
        num = len(video.events)
        report.read(config.name, num=num)
        with count_drop(report, config.name, video.video_id, num=num):
            excluded.check(unclean.media_names)
            found = media.find(unclean.media_names)
            file_duration = check_media(found, "picture") if media.folder is not None else None
            cleaned = timed_events.clean_video(unclean, source=config.name, file_duration=file_duration, report=report)
            report.keep(config.name, num=len(cleaned.events))
            yield from event_rows(
                cleaned,
                source=config.name,
                media=found,
                conversation_types=config.conversation_types or EVENT_SOURCES[config.name],
                absent=absent_labels(cleaned, vocabulary, num=count_absent(cleaned, config), seed=config.seed),
                max_turns=config.max_turns,
                seed=config.seed,
            )


class Instruction(AnnotationBuilder):
    """`load_dataset("instruction", "<source>", ...)`: one configuration per source."""

    BUILDER_CONFIG_CLASS = InstructionConfig
    BUILDER_CONFIGS = [InstructionConfig(name=name) for name in (*EVENT_SOURCES, *QUESTION_SOURCES, "vtimellm")]
    DESCRIPTION = "Annotated videos as questions and answers."

    def read_rows(self, report: RecordReport) -> Iterator[Row]:
        """See `read_rows` above."""
        return read_rows(self.config, report=report)

    @property
    def split(self) -> str:
        """The subset that the configuration names."""
        return self.config.subset
