"""Publish a checked release on the Hub: model, adapter or built dataset.

    python -m model_card.push --model outputs/demo/stage4 --repo-id user/avicuna --dry-run
    python -m model_card.push --dataset outputs/pu_valor --repo-id user/pu_valor

The last thing that `train/sft.py --push_to_hub` does, too. The release is assembled and verified before anything is sent, and it is sent as one commit: a repository is either as
before or complete. Large files that an interrupted run had sent already are recognised by their hash and not sent again.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

from dataset_builders.sandbox.world import make_world

from .dataset_release import assemble_dataset, find_dataset_problems, verify_dataset
from .facts import has_both_towers, read_json, read_training_history
from .release import assemble_release, find_foreign_ids, find_problems, verify_in_fresh_process
from .write import CARD_FILE, dataset_card, write_adapter_card, write_model_card


COMMIT_MESSAGE = "Publish an AVicuna release"
VERIFICATION_QUESTION = "What happens in the video, and when?"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model_card.push", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="a merged checkpoint folder")
    what.add_argument("--adapter", type=Path, help="a LoRA folder of train/sft.py; wants --base-model")
    what.add_argument("--dataset", type=Path, help="a built PU-VALOR or A5-222K folder")
    parser.add_argument("--repo-id", required=True, help="user/name; a bare name is one of yours")
    parser.add_argument("--base-model", help="Hub id of the model that an adapter adapts")
    parser.add_argument("--card", type=Path, help="the card; default: README.md of a model's folder, else written now")
    parser.add_argument("--example-video", type=Path, help="an mp4 to try the model on; default: one of the sandbox")
    parser.add_argument(
        "--include-media", action="store_true", help="publish rendered videos, too: only with the right to"
    )
    parser.add_argument("--private", action="store_true", help="keep the repository private")
    parser.add_argument("--revision", help="branch to commit to, made when it is new; default: main")
    parser.add_argument("--dry-run", action="store_true", help="assemble, verify, print what would go, send nothing")
    return parser.parse_args(arguments)


def choose_card(options: argparse.Namespace, repo_id: str) -> str:
    """The given card, else the README.md that `model_card.write` left in a model's folder, else one written now.

    Raises:
        ValueError: there is no such card, or it loads another repository than `repo_id`.
    """
    folder = options.model or options.adapter or options.dataset
    if options.card is not None:
        if not options.card.is_file():
            raise ValueError(f"{options.card} does not exist")
        card = options.card.read_text(encoding="utf-8")
    elif options.dataset is not None:
        card = dataset_card(folder, name=repo_id)
    elif options.adapter is not None:
        history = read_training_history(folder.parent)[-1:]
        card = write_adapter_card(folder, repo_id=repo_id, base_model=options.base_model, summaries=history)
    elif (folder / CARD_FILE).is_file() and not is_trainers_card(folder / CARD_FILE):
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
    else:
        card = write_model_card(folder, repo_id=repo_id, results=[], summaries=read_training_history(folder))
    if options.adapter is None and (foreign := find_foreign_ids(card, repo_id=repo_id)):
        raise ValueError(f"{foreign[0]}: write it again with `python -m model_card.write --repo-id {repo_id}`")
    return card


def is_trainers_card(path: Path) -> bool:
    """Whether a README.md is the one that TRL leaves beside a checkpoint: it tells nothing of the model."""
    return "generated_from_trainer" in (ModelCard.load(path).data.tags or [])


def prepare_model(options: argparse.Namespace, release: Path, repo_id: str) -> None:
    """Assemble and check a model or adapter in `release`; raise `ValueError` naming all that forbids publishing it."""
    folder, is_adapter = options.model or options.adapter, options.adapter is not None
    if is_adapter and options.base_model is None:
        raise ValueError("an adapter's repository names what it adapts: give its Hub id with --base-model")
    video = options.example_video
    if not is_adapter and video is None and has_both_towers(read_json(folder / "config.json")):
        video = make_example_video(release.with_name("sandbox"))
    card = choose_card(options, repo_id)
    assemble_release(folder, output=release, card=card, example_video=video, adapter=is_adapter)
    if is_adapter:
        name_base_model(release / "adapter_config.json", options.base_model)
    refuse(folder, find_problems(release, adapter=is_adapter))
    if not is_adapter:
        answer = verify_in_fresh_process(release, question=VERIFICATION_QUESTION)
        print(f"loads in a fresh process as {answer['class']} and answers: {answer['answer']!r}")


def prepare_dataset(options: argparse.Namespace, release: Path, repo_id: str) -> None:
    """The same for a built data set."""
    card = choose_card(options, repo_id)
    assemble_dataset(options.dataset, output=release, card=card, include_media=options.include_media)
    refuse(options.dataset, find_dataset_problems(release, include_media=options.include_media))
    print(f"loads in a fresh process; first rows: {verify_dataset(release)}")


def refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{folder} cannot be published:\n" + "\n".join(f"  - {problem}" for problem in problems))


def make_example_video(folder: Path) -> Path:
    """An untrimmed video of the procedural world, free of anybody's rights."""
    make_world(folder, num_clips=0, num_test_videos=1, seed=0)
    return next((folder / "test").glob("*.mp4"))


def name_base_model(config_path: Path, base_model: str) -> None:
    """PEFT stores the local folder of the base; a published adapter must name a Hub id instead."""
    config = {**read_json(config_path), "base_model_name_or_path": base_model}
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def list_files(folder: Path) -> list[tuple[str, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)


def upload(
    folder: Path,
    *,
    api: HfApi,
    repo_id: str,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Send `folder` as one commit and return its URL.

    A new repository is made private and opened, unless `private`, only after the commit stands, so that nobody meets an
    empty one; an empty private one, as an interrupted run leaves it, counts as new. Raises `RuntimeError` naming
    repository and reason: wrong token, no rights, connection lost.
    """
    try:
        api.create_repo(repo_id, repo_type=repo_type, private=True, exist_ok=True)
        before = api.repo_info(repo_id, repo_type=repo_type)
        is_new = before.private and {file.rfilename for file in before.siblings} <= {".gitattributes"}
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, repo_type=repo_type, revision=revision, commit_message=COMMIT_MESSAGE
        )
        if is_new and not private:
            api.update_repo_settings(repo_id, repo_type=repo_type, private=False)
    except RepositoryNotFoundError as error:
        raise RuntimeError(f"{repo_id}: no such repository, or the token may not write to it ({error})") from error
    except HfHubHTTPError as error:
        raise RuntimeError(f"{repo_id}: the Hub refused the upload, nothing was published ({error})") from error
    except (OSError, RuntimeError, HTTPError) as error:  # the last two: a connection lost in the middle
        raise RuntimeError(
            f"{repo_id}: the upload broke off, nothing was published ({error}); run it again"
        ) from error
    return commit.commit_url


def publish(options: argparse.Namespace) -> None:
    """Assemble, verify, list and, unless it is a dry run, send."""
    api, repo_id = HfApi(), options.repo_id
    if "/" not in repo_id and not options.dry_run:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    repo_type = "model" if options.dataset is None else "dataset"
    with tempfile.TemporaryDirectory(prefix="avicuna-release-") as scratch:
        release = Path(scratch) / "release"
        (prepare_model if options.dataset is None else prepare_dataset)(options, release, repo_id)
        files = list_files(release)
        for name, size in files:
            print(f"{size:>14,} B  {name}")
        print(f"{sum(size for _, size in files):>14,} B  in {len(files)} files for {repo_type} {repo_id}")
        if options.dry_run:
            print("dry run: nothing was sent")
            return
        url = upload(
            release,
            api=api,
            repo_id=repo_id,
            repo_type=repo_type,
            private=options.private,
            revision=options.revision,
        )
        print(f"published: {url}")


def main(arguments: list[str] | None = None) -> None:
    try:
        publish(parse_arguments(arguments))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
