"""Command line of the sandbox:

python -m dataset_builders.sandbox --output DIR --num-clips 240 --num-test-videos 24 --seed 0
"""

import argparse
from pathlib import Path

from .world import make_world


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dataset_builders.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--num-clips", type=int, default=240, help="10-s clips with a caption each")
    parser.add_argument("--num-test-videos", type=int, default=12, help="untrimmed videos with annotations")
    parser.add_argument("--num-train-videos", type=int, default=0, help="the same of the subset train")
    parser.add_argument("--num-classes", type=int, default=None, help="use only the first classes of the list")
    parser.add_argument("--num-proc", type=int, default=1, help="processes; any number gives the same world")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_world(
        arguments.output,
        num_clips=arguments.num_clips,
        num_test_videos=arguments.num_test_videos,
        num_train_videos=arguments.num_train_videos,
        num_classes=arguments.num_classes,
        seed=arguments.seed,
        num_proc=arguments.num_proc,
    )
    num_untrimmed = arguments.num_test_videos + arguments.num_train_videos
    print(f"wrote {arguments.num_clips} clips and {num_untrimmed} untrimmed videos to {arguments.output}")


if __name__ == "__main__":
    main()
