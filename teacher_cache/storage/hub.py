"""Repositories of Hugging Face's hub as stores: read by revision, written a commit at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_hf_uri
from typing_extensions import override

from teacher_cache.errors import DeniedError
from teacher_cache.storage.remote import RemoteStore
from teacher_cache.storage.store import Store

_T = TypeVar("_T")
_BATCH_BYTES = 2**27
"""Bytes of a commit: the hub limits commits an hour, and a commit is held in memory."""
_MAX_FOLDER_FILES = 10_000
"""Limit of the hub: huggingface.co/docs/hub/storage-limits, "Repository limitations and recommendations"."""
_XET = {"HF_XET_NUM_CONCURRENT_RANGE_GETS": "4", "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0"}
"""Settings of the hub's transfer library that bound its memory, unless the environment has others."""


class HubStore(RemoteStore):
    """Store at hf://datasets/OWNER/NAME[@REVISION][/PATH]."""

    batch_bytes = _BATCH_BYTES
    max_folder_files: int | None = _MAX_FOLDER_FILES

    @override
    def _open(self) -> None:
        for name, value in _XET.items():
            os.environ.setdefault(name, value)
        place = parse_hf_uri(self.url)
        super()._open()
        self._repo: dict[str, Any] = {
            "repo_id": place.id,
            "repo_type": place.type,
            "revision": place.revision,
        }
        self._folder = place.path_in_repo.strip("/")
        self.volume = self.url[: len(self.url) - len(self._folder)].rstrip("/") if self._folder else self.url
        self._opened.invalidate_cache()

    @override
    def pinned(self) -> Store:
        head, _, revision = self.volume.partition("@")
        if re.fullmatch("[0-9a-f]{40}", revision):
            return self
        commit = self._call(lambda api: api.repo_info(**self._repo)).sha
        return Store(f"{head}@{commit}" + (f"/{self._folder}" if self._folder else ""))

    @override
    def put(self, name: str, data: bytes) -> None:
        self.put_many({name: data})

    @override
    def put_many(self, objects: Mapping[str, bytes]) -> None:
        if not objects:
            return
        operations = [CommitOperationAdd(self._in_repo(name), data) for name, data in objects.items()]
        self._commit(operations, f"{len(operations)} files")

    @override
    def delete(self, name: str) -> None:
        if self.stat(name) is not None:
            self._commit([CommitOperationDelete(self._in_repo(name))], "1 file less")

    def _commit(self, operations: list[Any], message: str) -> None:
        self._call(lambda api: api.create_commit(operations=operations, commit_message=message, **self._repo))
        self._opened.invalidate_cache()

    def _call(self, call: Callable[[HfApi], _T]) -> _T:
        """Return the result of a call of the hub, tried again where that may help."""
        try:
            return self._try(self.url, lambda fs: _told(lambda: call(fs._api)))
        except FileNotFoundError as error:
            raise DeniedError(
                f"{self.url}: {error}",
                "Nothing was read or written.",
                f"make the repository first: hf repo create {self._repo['repo_id']}, as a dataset",
            ) from error

    def _in_repo(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name


def _told(call: Callable[[], _T]) -> _T:
    """Return a call's result; HTTP 404 raises FileNotFoundError, and 401 and 403 raise PermissionError."""
    try:
        return call()
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 404:
            raise FileNotFoundError(str(error).partition("\n")[0]) from error
        if status in (401, 403):
            raise PermissionError(str(error).partition("\n")[0]) from error
        raise
