"""Generate sandbox data: captioned clips with one event each, and annotated untrimmed videos.

python -m dataset_builders.sandbox --output DIR --num-clips 240 --num-test-videos 24 --seed 0
"""

from dataclasses import dataclass, field

from ..command_line import one_line_errors, parse_options
from ..input_settings import check_range
from .world import TimeLine, make_world


PROGRAM = "python -m dataset_builders.sandbox"
TIMES = TimeLine()


@dataclass
class SandboxOptions:
    """Command line of the sandbox."""

    output: str = field(metadata={"help": "folder to write"})
    num_clips: int = field(default=240, metadata={"help": "10-s clips with a caption each"})
    num_background_clips: int = field(default=0, metadata={"help": "10-s clips without an event"})
    num_test_videos: int = field(default=12, metadata={"help": "annotated untrimmed videos of the subset test"})
    num_train_videos: int = field(default=0, metadata={"help": "annotated untrimmed videos of the subset train"})
    num_classes: int | None = field(default=None, metadata={"help": "use only the first classes of the list"})
    event_seconds: list[float] = field(
        default_factory=lambda: list(TIMES.event_seconds), metadata={"help": "shortest and longest event"}
    )
    video_seconds: list[int] = field(
        default_factory=lambda: list(TIMES.video_seconds), metadata={"help": "shortest and longest untrimmed video"}
    )
    gap_seconds: list[float] = field(
        default_factory=lambda: list(TIMES.gap_seconds), metadata={"help": "shortest and longest gap between events"}
    )
    overlap_share: float = field(
        default=TIMES.overlap_share, metadata={"help": "probability that an event overlaps the previous one"}
    )
    num_workers: int = field(default=1, metadata={"help": "number of processes; the output does not depend on it"})
    seed: int = field(default=0, metadata={"help": "random seed"})

    def __post_init__(self):
        check_range(self, 0, "num_clips", "num_background_clips", "num_test_videos", "num_train_videos")
        check_range(self, 0, "seed")
        check_range(self, 1, "num_workers", "num_classes")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(SandboxOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    make_world(
        options.output,
        num_clips=options.num_clips,
        num_background_clips=options.num_background_clips,
        num_test_videos=options.num_test_videos,
        num_train_videos=options.num_train_videos,
        num_classes=options.num_classes,
        time_line=TimeLine(
            event_seconds=tuple(options.event_seconds),
            video_seconds=tuple(options.video_seconds),
            gap_seconds=tuple(options.gap_seconds),
            overlap_share=options.overlap_share,
        ),
        seed=options.seed,
        num_proc=options.num_workers,
    )
    num_untrimmed = options.num_test_videos + options.num_train_videos
    print(f"wrote {options.num_clips} clips and {num_untrimmed} untrimmed videos to {options.output}")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
