"""Put a trained sandbox checkpoint into the repository, as `examples/sandbox_checkpoint`.

    python examples/demo.py --output outputs/demo
    python examples/ship_checkpoint.py --model outputs/demo/stage4

It is scored on the held-out videos of another world, which no training has seen, and gets its figures and its card.
The code that `save_pretrained` writes beside the weights becomes links to `modeling_avicuna/`, so that it cannot
differ from it.
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModel, AutoProcessor


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset_builders.command_line import one_line_errors, parse_options  # noqa: E402
from examples import sandbox_recipe as recipe  # noqa: E402
from train.summary import SUMMARY_FILE  # noqa: E402


PROGRAM = "python examples/ship_checkpoint.py"
CHECKPOINT = Path("examples/sandbox_checkpoint")  # from the root of the project, where all commands run
SEED = 200  # of the world whose held-out videos the figures are about; no recipe was chosen on it
FIRST = 20  # videos of the fast test


@dataclass
class ShipOptions:
    """Command line of the tool."""

    model: Path = field(metadata={"help": "Folder of the last stage."})
    work: Path = field(default=Path("outputs/ship"), metadata={"help": "Folder for the held-out videos and answers."})


def held_out_world(output: Path, *, num_videos: int = recipe.NUM_TEST_VIDEOS) -> recipe.Step:
    """The held-out videos that the figures are about; fewer are the first ones."""
    return recipe.step(
        "held-out videos",
        *("python", "-m", "dataset_builders.sandbox", "--output", output, "--num-clips", 0, *recipe.WORLDS["plain"]),
        *("--num-test-videos", num_videos, "--seed", SEED),
        product=output / "annotations.json",
    )


def copy_checkpoint(model: Path, output: Path) -> None:
    """Save the checkpoint with today's code, which is linked; the training's folders become relative paths."""
    import modeling_avicuna  # noqa: F401  (registers the auto classes)

    shutil.rmtree(output, ignore_errors=True)
    for part in (AutoModel, AutoProcessor):
        part.from_pretrained(model).save_pretrained(output)
    for path in output.glob("*.py"):
        path.unlink()
        path.symlink_to(Path("../../modeling_avicuna") / path.name)
    text = (model / SUMMARY_FILE).read_text(encoding="utf-8").replace(f"{model.resolve().parent}/", "")
    (output / SUMMARY_FILE).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(ShipOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    copy_checkpoint(options.model, recipe.PROJECT / CHECKPOINT)
    world = held_out_world(options.work / "world")
    if not world.product.exists():
        world.run()
    for name, limit in (("results", ()), (f"results_first_{FIRST}", ("--limit", str(FIRST)))):
        shutil.rmtree(options.work / name, ignore_errors=True)
        output = options.work / name
        scored = recipe.evaluate("sandbox_query", model=CHECKPOINT, world=options.work / "world", output=output)
        recipe.Step(scored.name, (*scored.words, *limit), scored.product).run()
    shutil.copy(scored.product, recipe.PROJECT / CHECKPOINT / f"results_first_{FIRST}.json")
    recipe.step(
        "card",
        *("python", "-m", "model_card.write", "--model", CHECKPOINT, "--repo-id", "user/avicuna-sandbox"),
        *("--results", options.work / "results" / "results.json", "--output", CHECKPOINT / "README.md"),
        product=CHECKPOINT / "README.md",
    ).run()


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
