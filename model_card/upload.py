"""Sends a release folder to the Hub as one commit: a repository is either as before or complete.

A new repository stays closed until its commit stands. What an interrupted upload had sent already is recognised by its
hash and not sent again; the same command finishes it. Nothing here looks into the files.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError


COMMIT_MESSAGE = "Publish an AVicuna release"


def upload(
    folder: Path,
    *,
    api: HfApi,
    repo_id: str,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
    replaces: Iterable[str] = (),
    space_sdk: str | None = None,
) -> str:
    """Send `folder` as one commit and return its URL.

    A repository that is there keeps its visibility; a new one is made private and, unless `private`, opened once the
    commit stands, also by a later run that finishes the work of an interrupted one.

    Args:
        replaces (iterable of `str`): patterns of files that go when the new release does not have them, so that no shard
            of an older one stays behind.
        space_sdk (`str`, *optional*): what a new Space runs on.

    Raises:
        ValueError: the repository is public, and `private` was asked for.
        RuntimeError: naming repository and reason: wrong token, no rights, a connection lost. Nothing of the release is
            public then.
    """
    unfinished = Path(constants.HF_HOME) / "avicuna" / f"unfinished--{repo_type}--{repo_id.replace('/', '--')}"
    try:
        try:
            is_private = api.repo_info(repo_id, repo_type=repo_type).private
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type=repo_type, private=True, space_sdk=space_sdk)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            unfinished.touch()  # tells a later run that the repository is private because it is new
            is_private = True
        if private and not is_private:
            raise ValueError(
                f"{repo_id} is public, and --private was asked for: close it first, or leave --private out"
            )
        opens = unfinished.exists() and not private
        with branch_for(revision, api=api, repo_id=repo_id, repo_type=repo_type):
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                repo_type=repo_type,
                revision=revision,
                commit_message=COMMIT_MESSAGE,
                delete_patterns=list(replaces),
            )
    except RepositoryNotFoundError as error:
        raise RuntimeError(f"{repo_id}: no such repository, or the token may not write to it ({error})") from error
    except HfHubHTTPError as error:
        raise RuntimeError(f"{repo_id}: the Hub refused the upload, nothing was published ({error})") from error
    except (OSError, RuntimeError, HTTPError) as error:  # the last two: a connection lost in the middle
        raise RuntimeError(
            f"{repo_id}: the upload broke off, nothing was published ({error}); run it again"
        ) from error
    if opens:
        open_repository(api, repo_id, repo_type)
    unfinished.unlink(missing_ok=True)
    return commit.commit_url


@contextmanager
def branch_for(revision: str | None, *, api: HfApi, repo_id: str, repo_type: str) -> Iterator[None]:
    """Make the branch `revision` where it is new, and take it away again when the block fails: it holds main's files."""
    refs = api.list_repo_refs(repo_id, repo_type=repo_type) if revision is not None else None
    is_new = refs is not None and revision not in {branch.name for branch in refs.branches}
    if is_new:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError, HTTPError):  # the first failure is the one to tell
                api.delete_branch(repo_id, branch=revision, repo_type=repo_type)
        raise


def open_repository(api: HfApi, repo_id: str, repo_type: str) -> None:
    """Make a repository public whose release is complete."""
    try:
        api.update_repo_settings(repo_id, repo_type=repo_type, private=False)
    except (OSError, HTTPError) as error:
        raise RuntimeError(f"{repo_id}: the release is complete, but still private ({error}); run it again") from error
