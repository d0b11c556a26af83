"""Publish a checked release on the Hub: model, adapter or built dataset.

    python -m model_card.push --model outputs/demo/stage4 --repo-id user/avicuna --card outputs/card.md --dry-run
    python -m model_card.push --dataset outputs/demo/pu_valor --repo-id user/pu_valor

The release is assembled and verified before anything is sent, and it is sent as one commit: a repository is either as
before or complete. Large files that an interrupted run had sent already are recognised by their hash and not sent again.
"""

import argparse
import json
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

from .release import assemble_release, find_problems, verify_in_fresh_process


COMMIT_MESSAGE = "Publish an AVicuna release"
VERIFICATION_QUESTION = "What happens in the video, and when?"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="a merged checkpoint folder")
    what.add_argument("--adapter", type=Path, help="a PEFT adapter folder; --base-model names what it adapts")
    what.add_argument("--dataset", type=Path, help="a built dataset folder (Parquet and README.md)")
    parser.add_argument("--repo-id", required=True, help="user/name")
    parser.add_argument("--base-model", help="Hub id of the base model, written into the adapter's configuration")
    parser.add_argument("--card", type=Path, help="the card; default: README.md of the folder")
    parser.add_argument("--example-video", type=Path, help="an mp4 that users may download and try")
    parser.add_argument("--private", action="store_true", help="keep the repository private")
    parser.add_argument("--revision", help="branch to commit to, made when it is new; default: main")
    parser.add_argument("--dry-run", action="store_true", help="assemble, verify, print what would go, send nothing")
    return parser.parse_args(arguments)


def read_card(folder: Path, card: Path | None) -> str:
    path = card or folder / "README.md"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: write the card first with `python -m model_card.write`")
    return path.read_text(encoding="utf-8")


def prepare_model(options: argparse.Namespace, release: Path) -> None:
    """Assemble the model or adapter release in `release`; raise `ValueError` naming all that forbids publishing it."""
    folder = options.model or options.adapter
    card = read_card(folder, options.card)
    assemble_release(
        folder, output=release, card=card, example_video=options.example_video, adapter=options.adapter is not None
    )
    if options.adapter is not None:
        name_base_model(release / "adapter_config.json", options.base_model)
    problems = find_problems(release, adapter=options.adapter is not None)
    if problems:
        raise ValueError(f"{folder} cannot be published:\n" + "\n".join(f"  - {problem}" for problem in problems))
    if options.model is not None:
        answer = verify_in_fresh_process(release, question=VERIFICATION_QUESTION)
        print(f"loads in a fresh process as {answer['class']} and answers: {answer['answer']!r}")


def name_base_model(config_path: Path, base_model: str | None) -> None:
    """PEFT stores the local folder of the base; a published adapter must name a Hub id instead."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    elif Path(config.get("base_model_name_or_path") or "").is_absolute():
        raise ValueError(f"{config_path.name} names a local base model; give its Hub id with --base-model")
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
    empty one; an empty private one, as an interrupted run leaves it, counts as new. Raises `RuntimeError` naming repository and reason: wrong token, no rights, connection lost.
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


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory(prefix="avicuna-release-") as scratch:
        if options.dataset is not None:
            release, repo_type = options.dataset, "dataset"
            read_card(release, options.card)
        else:
            release, repo_type = Path(scratch) / "release", "model"
            prepare_model(options, release)
        files = list_files(release)
        for name, size in files:
            print(f"{size:>14,} B  {name}")
        print(f"{sum(size for _, size in files):>14,} B  in {len(files)} files for {repo_type} {options.repo_id}")
        if options.dry_run:
            print("dry run: nothing was sent")
            return
        url = upload(
            release,
            api=HfApi(),
            repo_id=options.repo_id,
            repo_type=repo_type,
            private=options.private,
            revision=options.revision,
        )
        print(f"published: {url}")


if __name__ == "__main__":
    main()
