"""Image-text pairs for stage I as `load_dataset("image_text", annotations_file=..., image_dir=...)`.

Reads LLaVA's JSON (LCS-558K, LLaVA-Instruct), question-answer and caption lists about images, and captioned clips in
VALOR's format. A row uses one frame of its clip; the training code chooses it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .builder_base import AnnotationBuilder
from .input_settings import Files, InputConfig, check_range
from .sources.audio_captions import read_captioned_clips
from .sources.media_folder import MediaFolder
from .sources.media_probe import check_media
from .sources.questions import question_rows, read_question_answers
from .sources.record_report import RecordReport
from .sources.records import count_drop
from .sources.rows import Row, make_row, of_file
from .sources.text_cleaning import normalize_caption
from .wordings import IMAGE_QUESTIONS, choose_wording


@dataclass
class ImageTextConfig(InputConfig):
    """The annotation files and the folders of the images.

    Args:
        annotations_file: one or several files in any format that `sources.questions.read_question_answers` reads.
        image_dir: folder of the images; None: rows have the relative paths of the annotation files.
        captions_file: captioned clips in VALOR's format; `clips_dir` is their folder, and clips without a video
            stream are dropped.
        max_missing: share of the images (0-1) that may be missing from a folder before the build fails.
        max_turns: maximum turns per row; the remaining turns go in additional rows. 1 by default: stage I's template
            has one answer.
    """

    annotations_file: Files = None
    captions_file: Files = None
    image_dir: str | None = None
    clips_dir: str | None = None
    max_missing: float = 0.0
    max_turns: int = 1


def read_rows(config: ImageTextConfig, *, report: RecordReport) -> Iterator[Row]:
    """The rows of every file of the configuration, in order; the source of a row is the name of its file.

    Raises:
        ValueError: no file, or more images missing than `max_missing` allows.
    """
    check_range(config, 1, "max_turns")
    check_range(config, 0, "seed")
    check_range(config, 0, "max_missing", high=1)
    annotations, captions = config.files("annotations_file"), config.files("captions_file")
    if not annotations and not captions:
        raise ValueError("image_text needs annotations_file or captions_file")
    images = MediaFolder(config.folder("image_dir"), kind="image")
    clips = MediaFolder(config.folder("clips_dir"), kind="video")
    for number, path in enumerate(annotations):
        yield from of_file(_image_rows(path, images, max_turns=config.max_turns, report=report), number)
    for number, path in enumerate(captions):
        yield from of_file(_frame_rows(path, clips, report=report, seed=config.seed), number)
    images.check(max_missing=config.max_missing)
    clips.check(max_missing=config.max_missing)


def _image_rows(path: Path, images: MediaFolder, *, max_turns: int, report: RecordReport) -> Iterator[Row]:
    source = path.name.split(".")[0]
    for record in read_question_answers(path, source=source, report=report):
        num = len(record.turns)
        with count_drop(report, source, record.media_names[0], num=num):
            image = images.find(record.media_names)
            report.keep(source, num=num)
            yield from question_rows(record, source=source, media=image, kind="image", max_turns=max_turns)


def _frame_rows(path: Path, clips: MediaFolder, *, report: RecordReport, seed: int) -> Iterator[Row]:
    for clip in read_captioned_clips(path, report=report):
        with count_drop(report, "captions", clip.record_id):
            found = clips.find(clip.media_names)
            if clips.folder is not None:
                check_media(found, "picture")
            report.keep("captions")
            row_id = f"captions-{clip.record_id}"
            question = choose_wording(IMAGE_QUESTIONS, row_id, seed=seed)
            yield make_row(row_id, source="captions", turns=[(question, normalize_caption(clip.caption))], image=found)


class ImageText(AnnotationBuilder):
    """`load_dataset("image_text", ...)`."""

    BUILDER_CONFIG_CLASS = ImageTextConfig
    DESCRIPTION = "Image-text pairs for aligning a vision adapter."

    def read_rows(self, report: RecordReport) -> Iterator[Row]:
        """See `read_rows` above."""
        return read_rows(self.config, report=report)
