"""Uploads a release folder to the Hub as one commit, so that a repository never holds part of a release.

An interrupted upload is completed by the same command; files that were uploaded are recognised by their hash.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi
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

    Args:
        private (`bool`): visibility of a new repository. An existing one keeps its own.
        replaces (iterable of `str`): patterns of older files that are deleted unless the new release has them.
        space_sdk (`str`, *optional*): SDK of a new Space.

    Raises:
        ValueError: the repository is public, and `private` was asked for.
        RuntimeError: the upload failed and the repository is unchanged; names the repository and the reason.
    """
    try:
        if not api.repo_exists(repo_id, repo_type=repo_type):
            api.create_repo(repo_id, repo_type=repo_type, private=private, space_sdk=space_sdk)
        elif private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(f"{repo_id} is public, and --private was given: make it private first, or omit --private")
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
    except (OSError, RuntimeError, HTTPError) as error:  # the last two: the connection was lost during the upload
        raise RuntimeError(
            f"{repo_id}: the upload was interrupted, nothing was published ({error}); run it again"
        ) from error
    return commit.commit_url


@contextmanager
def branch_for(revision: str | None, *, api: HfApi, repo_id: str, repo_type: str) -> Iterator[None]:
    """Create the branch `revision` if it is new, and delete it again if the body fails: it has the files of main."""
    refs = api.list_repo_refs(repo_id, repo_type=repo_type) if revision is not None else None
    is_new = refs is not None and revision not in {branch.name for branch in refs.branches}
    if is_new:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError, HTTPError):  # report the first failure
                api.delete_branch(repo_id, branch=revision, repo_type=repo_type)
        raise
