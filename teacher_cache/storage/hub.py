"""Repositories of Hugging Face's hub as stores: read by revision, written a commit at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_hf_uri

from teacher_cache.errors import DeniedError
from teacher_cache.storage.remote import RemoteBackend

_T = TypeVar("_T")
_BATCH_BYTES = 2**27
"""Bytes of a commit: the hub limits commits an hour, and a commit is held in memory."""
_MAX_FOLDER_FILES = 10_000
"""Limit of the hub: huggingface.co/docs/hub/storage-limits, "Repository limitations and recommendations"."""
_XET = {"HF_XET_NUM_CONCURRENT_RANGE_GETS": "4", "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0"}
"""Settings of the hub's transfer library that bound its memory, unless the environment has others."""


class HubBackend(RemoteBackend):
    """Backend of hf://datasets/OWNER/NAME[@REVISION][/PATH].

    Args:
        url: URL of a repository, or of a folder in it.

    Raises:
        ValueError: The URL names no repository.
    """

    batch_bytes = _BATCH_BYTES
    max_folder_files: int | None = _MAX_FOLDER_FILES

    def __init__(self, url: str) -> None:
        for name, value in _XET.items():
            os.environ.setdefault(name, value)
        place = parse_hf_uri(url)
        super().__init__(url)
        self._repo: dict[str, Any] = {
            "repo_id": place.id,
            "repo_type": place.type,
            "revision": place.revision,
        }
        self._folder = place.path_in_repo.strip("/")
        self.volume = url[: len(url) - len(self._folder)].rstrip("/") if self._folder else url
        self._opened.invalidate_cache()

    def pinned_url(self) -> str:
        """Return the URL at the commit that its branch points to now; see Backend."""
        head, _, rest = self.volume.partition("@")
        if len(rest) == 40 and all(digit in "0123456789abcdef" for digit in rest):
            return self._url
        commit = self._call(lambda api: api.repo_info(**self._repo)).sha
        return f"{head}@{commit}" + (f"/{self._folder}" if self._folder else "")

    def write(self, path: str, data: bytes) -> None:
        """Write an object in a commit of its own; see Backend."""
        self.write_many({path: data})

    def write_many(self, objects: Mapping[str, bytes]) -> None:
        """Write objects in one commit; see Backend."""
        if not objects:
            return
        operations = [CommitOperationAdd(self._in_repo(path), data) for path, data in objects.items()]
        self._commit(operations, f"{len(operations)} files")

    def delete(self, path: str) -> None:
        """Remove an object; see Backend."""
        self._commit([CommitOperationDelete(self._in_repo(path))], "1 file less")

    def _commit(self, operations: list[Any], message: str) -> None:
        self._call(lambda api: api.create_commit(operations=operations, commit_message=message, **self._repo))
        self._opened.invalidate_cache()

    def _call(self, call: Callable[[HfApi], _T]) -> _T:
        """Return the result of a call of the hub, tried again where that may help."""
        try:
            return self._try(self._url, lambda fs: _told(lambda: call(fs._api)))
        except FileNotFoundError as error:
            raise DeniedError(
                f"{self._url}: {error}",
                "Nothing was read or written.",
                f"make the repository first: hf repo create {self._repo['repo_id']}, as a dataset",
            ) from error

    def _in_repo(self, path: str) -> str:
        name = path.removeprefix(self.root).strip("/")
        return f"{self._folder}/{name}" if self._folder else name


def _told(call: Callable[[], _T]) -> _T:
    """Return the result of a call; an answer that stays the same is raised as what it means."""
    try:
        return call()
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 404:
            raise FileNotFoundError(str(error).partition("\n")[0]) from error
        if status in (401, 403):
            raise PermissionError(str(error).partition("\n")[0]) from error
        raise
