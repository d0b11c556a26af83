"""Publish a checked release on the Hub: model (and a Space that runs it), adapter or built data set.

    python -m model_card.push --model outputs/demo/stage4 --repo-id user/avicuna --dry-run
    python -m model_card.push --dataset outputs/pu_valor --repo-id user/pu_valor

`train/sft.py --push_to_hub` ends with it. A release is assembled and verified before anything is sent, and is sent as
one commit (`release/upload.py`).
"""

import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.release.card_facts import CARD_FILE
from dataset_builders.release.provenance import model_hash
from dataset_builders.sandbox.world import make_world
from dataset_builders.sources.annotation_files import read_object, read_text

from .code_samples import find_foreign_ids, pin_revision
from .facts import has_both_towers
from .lineage import read_lineage
from .release.dataset_release import (
    DATASET_PATTERNS,
    assemble_dataset,
    find_dataset_problems,
    verify_dataset,
    write_card,
)
from .release.fresh_process import ask_model
from .release.model_release import (
    ADAPTER_PATTERNS,
    PICKLES,
    PUBLISHED_PATTERNS,
    TRAINING_STATE,
    assemble_release,
    find_problems,
)
from .release.space_release import assemble_space, find_space_problems, verify_space
from .release.upload import upload
from .write import dataset_card, write_adapter_card, write_model_card


PROGRAM = "python -m model_card.push"
VERIFICATION_QUESTION = "What happens in the video, and when?"
CARDS_HASH = re.compile(r"hash of weights and settings: `([0-9a-f]+)`")
# files of an older release of the same kind that may be in the repository
REPLACED = {
    "model": (*PUBLISHED_PATTERNS, *PICKLES, *TRAINING_STATE),
    "adapter": (*ADAPTER_PATTERNS, *PICKLES, *TRAINING_STATE),
    "dataset": DATASET_PATTERNS,
}


@dataclass
class PushOptions:
    """Exactly one of `model`, `adapter` and `dataset` is given."""

    repo_id: str = field(metadata={"help": "user/name; a bare name is a repository of yours."})
    model: Path | None = field(default=None, metadata={"help": "A merged checkpoint folder."})
    adapter: Path | None = field(
        default=None, metadata={"help": "A LoRA folder of train/sft.py; requires --base-model."}
    )
    dataset: Path | None = field(default=None, metadata={"help": "A built PU-VALOR or A5-222K folder."})
    base_model: str | None = field(default=None, metadata={"help": "Hub id of the model that an adapter adapts."})
    card: Path | None = field(
        default=None, metadata={"help": "The card. Default: README.md of a model's folder, otherwise written now."}
    )
    example_video: Path | None = field(
        default=None, metadata={"help": "An mp4 to try the model on. Default: one of the sandbox."}
    )
    include_media: bool = field(
        default=False, metadata={"help": "Publish rendered videos too. Only with the right to do so."}
    )
    space_id: str | None = field(
        default=None, metadata={"help": "With --model: also publish a Space here that runs the model in the browser."}
    )
    private: bool = field(default=False, metadata={"help": "Create a new repository as private."})
    revision: str | None = field(
        default=None, metadata={"help": "Branch to commit to, created if it is new. Default: main."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Assemble, verify and list what would be sent. Send nothing."}
    )

    def __post_init__(self):
        given = [kind for kind in ("model", "adapter", "dataset") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of --model, --adapter and --dataset, got {given or 'none'}")
        if self.space_id is not None and (self.model is None or self.revision is not None):
            raise ValueError("--space-id requires --model and excludes --revision: a Space runs the main branch")


def choose_texts(folder: Path, options: PushOptions, repo_id: str) -> dict[str, str]:
    """The card and its additional files, by file name.

    The card is the given one; otherwise the README.md that `model_card.write` wrote into a model's folder; otherwise
    a new one. Its code loads the revision to which the release is pushed.

    Args:
        folder (`Path`): the checkpoint, the adapter, or the assembled release of a data set.

    Raises:
        ValueError: the card loads another repository than `repo_id`, or describes other weights.
    """
    if options.card is not None:
        texts = {CARD_FILE: read_text(options.card)}
    elif options.dataset is not None:
        texts = {CARD_FILE: dataset_card(folder, name=repo_id)}
    elif options.adapter is not None:
        lineage = read_lineage(folder.parent)
        texts = write_adapter_card(folder, repo_id=repo_id, base_model=options.base_model or "", lineage=lineage)
    elif (folder / CARD_FILE).is_file() and not is_trainers_card(folder / CARD_FILE):
        texts = {CARD_FILE: read_text(folder / CARD_FILE)}
    else:
        texts = write_model_card(folder, repo_id=repo_id, results=[], lineage=read_lineage(folder))
    card = texts[CARD_FILE]
    again = f"write it again with `python -m model_card.write --repo-id {repo_id}`"
    if options.adapter is None and (foreign := find_foreign_ids(card, repo_id=repo_id)):
        raise ValueError(f"{foreign[0]}: {again}")
    described = CARDS_HASH.search(card)
    if options.model is not None and described and described.group(1) != model_hash(str(folder)):
        raise ValueError(
            f"the card of {folder} was written for other weights or settings ({described.group(1)}): {again}"
        )
    if options.revision is not None:
        card = pin_revision(card, repo_id=repo_id, revision=options.revision)
    return {**texts, CARD_FILE: card}


def is_trainers_card(path: Path) -> bool:
    """Whether a README.md is the generic one that TRL writes."""
    return "generated_from_trainer" in (ModelCard.load(path).data.tags or [])


def prepare_model(model: Path, options: PushOptions, release: Path, repo_id: str) -> None:
    """Assemble and check a model in `release`; raise `ValueError` listing everything that forbids publishing it."""
    video = options.example_video
    if video is None and has_both_towers(read_object(model / "config.json")):
        video = make_example_video(release.with_name("sandbox"))
    texts = choose_texts(model, options, repo_id)
    assemble_release(model, output=release, texts=texts, example_video=video)
    refuse(model, find_problems(release))
    answer = ask_model(release, question=VERIFICATION_QUESTION)
    print(f"loads in a fresh process as {answer['class']} and answers: {answer['answer']!r}")


def prepare_adapter(adapter: Path, options: PushOptions, release: Path, repo_id: str) -> None:
    """The same for a LoRA adapter, which is tested with its base model if that is on this machine."""
    if options.base_model is None:
        raise ValueError("the card of an adapter names its base model: give the Hub id with --base-model")
    config = read_object(adapter / "adapter_config.json")
    assemble_release(adapter, output=release, texts=choose_texts(adapter, options, repo_id), adapter=True)
    # PEFT stores the folder of the base; a published adapter names its Hub id instead
    published = {**config, "base_model_name_or_path": options.base_model}
    write_json(release / "adapter_config.json", published, sort_keys=True)
    refuse(adapter, find_problems(release, adapter=True))
    base = Path(config["base_model_name_or_path"] or "")
    if (base / "config.json").is_file():
        answer = ask_model(base, question=VERIFICATION_QUESTION, adapter=release)
        print(f"loads on {base} in a fresh process as {answer['class']} and answers: {answer['answer']!r}")
    else:
        print(f"not tested: its base model {base} is not on this machine")


def prepare_dataset(dataset: Path, options: PushOptions, release: Path, repo_id: str) -> None:
    """The same for a built data set."""
    assemble_dataset(dataset, output=release, include_media=options.include_media)
    write_card(release, choose_texts(release, options, repo_id)[CARD_FILE])
    refuse(dataset, find_dataset_problems(release, include_media=options.include_media))
    print(f"loads in a fresh process; first rows: {verify_dataset(release)}")


def prepare_space(model: Path, space: Path, model_id: str) -> None:
    """The same for the Space that will run the release in `model` under its Hub id `model_id`."""
    assemble_space(model_id, output=space)
    refuse(space, find_space_problems(space))
    print(f"the Space starts in a fresh process and answers: {verify_space(space, model=model)!r}")


PREPARE = {"model": prepare_model, "adapter": prepare_adapter, "dataset": prepare_dataset}


def refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{folder} cannot be published:\n" + "\n".join(f"  - {problem}" for problem in problems))


def make_example_video(folder: Path) -> Path:
    """An untrimmed video of the sandbox, without third-party rights."""
    make_world(folder, num_clips=0, num_test_videos=1, seed=0)
    return next((folder / "test").glob("*.mp4"))


def check_base_model(api: HfApi, base_model: str) -> None:
    """Raise `ValueError` if the Hub has no such model: users of the adapter could not load it."""
    try:
        api.model_info(base_model)
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"--base-model {base_model}: the Hub has no such model, or the token may not read it"
        ) from error


def full_id(api: HfApi, name: str, options: PushOptions) -> str:
    """`user/name` for a bare name. A dry run does not ask the Hub for the user and keeps the name."""
    return name if "/" in name or options.dry_run else f"{api.whoami()['name']}/{name}"


def publish(options: PushOptions) -> None:
    """Assemble, verify, list and, unless it is a dry run, upload."""
    api = HfApi()
    repo_id = full_id(api, options.repo_id, options)
    space_id = None if options.space_id is None else full_id(api, options.space_id, options)
    kind, folder = next((kind, getattr(options, kind)) for kind in PREPARE if getattr(options, kind) is not None)
    repo_type = "dataset" if kind == "dataset" else "model"
    if options.base_model is not None and not options.dry_run:
        check_base_model(api, options.base_model)
    with tempfile.TemporaryDirectory(prefix="avicuna-release-") as scratch:
        release, space = Path(scratch) / "release", Path(scratch) / "space"
        PREPARE[kind](folder, options, release, repo_id)
        print_files(release, f"{repo_type} {repo_id}")
        if space_id is not None:
            prepare_space(release, space, repo_id)
            print_files(space, f"space {space_id}")
        if options.dry_run:
            print("dry run: nothing was sent")
            return
        shared = {"api": api, "private": options.private}
        replaces = REPLACED[kind]
        url = upload(
            release, repo_id=repo_id, repo_type=repo_type, revision=options.revision, replaces=replaces, **shared
        )
        print(f"published: {url}")
        if space_id is not None:
            url = upload(space, repo_id=space_id, repo_type="space", space_sdk="gradio", **shared)
            print(f"published: {url}")


def print_files(folder: Path, destination: str) -> None:
    """Lists the files of a release with their sizes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size:>14,} B  {path.relative_to(folder).as_posix()}")
    print(f"{sum(path.stat().st_size for path in files):>14,} B  in {len(files)} files for {destination}")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(PushOptions, arguments, program=PROGRAM, description=__doc__.split("\n")[0])
    try:
        publish(options)
    except RuntimeError as error:  # the Hub or a fresh process, with its reason
        sys.exit(f"{PROGRAM}: error: {error}")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
