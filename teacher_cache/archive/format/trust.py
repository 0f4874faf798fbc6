"""What must be true of an archive before its labels are used: a signature by a pinned key, a known manifest.

The keys come with the request, or from the user's own file, which pins keys to places as OpenSSH's
`allowed_signers` pins them to names:

    hf://datasets/acme/            ssh-ed25519 AAAA...
    s3://labels/imagenet           ssh-ed25519 AAAA...

Protected against: a changed manifest, statement or label object, another signer, and, by the date of the
statement last seen at a place, an older signed version of it (rollback). Not protected against: a place that
keeps giving the last version that was seen (freeze). Units of two versions cannot be mixed, since a manifest
names the sha256 of each object.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from teacher_cache.archive.format.manifest import Manifest, read_manifest
from teacher_cache.errors import ArchiveError, InputError, StoreError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.storage.places import is_inside, normal_url
from teacher_cache.storage.store import Store

if TYPE_CHECKING:
    from teacher_cache.archive.format.signature import Statement

_APP = "teacher-cache"


@dataclasses.dataclass(frozen=True)
class PinnedKey:
    """Public key that archives at a place must be signed with.

    Attributes:
        place: Folder or URL; the archives inside it are meant.
        line: The key, as a line of OpenSSH.
    """

    place: str
    line: str


@dataclasses.dataclass(frozen=True)
class Trust:
    """Conditions under which an archive is used; the default is that any archive is.

    Attributes:
        keys: Keys of which one must have signed every archive, as OpenSSH lines or PEM; None for no such
            condition.
        pinned: Keys of the user's own file, for archives inside their places; `keys` goes before them.
        manifests: sha256 of the manifests that are accepted; () for any.
        seen: Folder that remembers the date of the newest statement about each archive at each place; None
            for none.
    """

    keys: str | None = None
    pinned: tuple[PinnedKey, ...] = ()
    manifests: tuple[str, ...] = ()
    seen: str | None = None

    def demands(self, url: str) -> bool:
        """Return whether an archive at a URL must fulfil a condition."""
        return bool(self.manifests) or self._keys_for(url) is not None

    def manifest(self, store: Store, url: str | None = None) -> Manifest:
        """Read the manifest of an archive once, and check it; use this very manifest from then on.

        Args:
            url: URL by which the user named the archive; the store's by default.

        Raises:
            ArchiveError: There is no readable manifest, or it does not fulfil a condition.
        """
        manifest, place = read_manifest(store), url or store.url
        if self.manifests and (digest := sha256_hex(manifest.to_bytes())) not in self.manifests:
            raise ArchiveError(
                f"{place} has manifest {digest}, not {' or '.join(self.manifests)}",
                "It is another version of the archive than the one asked for.",
                "fetch that version, or give the new sha256 with --manifest if you trust it",
            )
        keys = self._keys_for(place)
        if keys is not None:
            self.refuse_older(place, _valid_statements(store, manifest, keys, place))
        return manifest

    def refuse_older(self, url: str, statements: Sequence[Statement]) -> None:
        """Refuse an archive whose newest statement is older than the last one seen of it at a place.

        Any accepted key counts: a version with two signatures must not pass for a newer one with one.

        Raises:
            ArchiveError: It is older.
        """
        if self.seen is not None:
            _refuse_older(Store(self.seen), normal_url(url) or url, statements)

    def refuse_unsigned(self, url: str, what: str) -> None:
        """Refuse labels of a kind that cannot be signed, where a condition holds. Raises ArchiveError."""
        if self.demands(url):
            raise ArchiveError(
                f"{url} is {what}, which has no signature",
                "Its labels cannot be checked against a key or the sha256 of a manifest.",
                "give a finished archive, or leave out --key and --manifest if you trust these labels",
            )

    def _keys_for(self, url: str) -> str | None:
        if self.keys is not None:
            return self.keys
        lines = [pinned.line for pinned in self.pinned if is_inside(url, pinned.place)]
        return "\n".join(lines) or None


ANY = Trust()


def trust_of(
    key: str | Path | None = None,
    manifests: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Trust:
    """Return the conditions of a request, with those of the user's own file of pinned keys.

    Args:
        key: File of public keys, one of which must have signed every archive.
        manifests: sha256 of the manifests that are accepted.
        environment: Variables that name the user's folders: XDG_CONFIG_HOME, XDG_STATE_HOME, HOME.

    Raises:
        InputError: A file of keys cannot be read or holds no ed25519 key.
    """
    home = environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  # pathlib's raises without a user
    own = Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config", _APP, "keys")
    seen = Path(environment.get("XDG_STATE_HOME") or f"{home}/.local/state", _APP, "seen")
    keys = None
    if key is not None:
        keys = _checked(_text_of(Path(key)), key)
    pinned = _pinned(_text_of(own), own) if _is_there(own) else ()
    return Trust(keys, pinned, tuple(manifests), str(seen))


def _pinned(text: str, file: Path) -> tuple[PinnedKey, ...]:
    found = []
    for line in text.splitlines():
        place, _, key = line.strip().partition(" ")
        if not place or place.startswith("#"):
            continue
        found.append(PinnedKey(place.rstrip("/"), _checked(key.strip(), file)))
    return tuple(found)


def _is_there(file: Path) -> bool:
    """Return whether there is a file. Raises InputError if it is not known: the keys in it must hold."""
    try:
        return file.is_file()
    except OSError as error:
        raise InputError(
            f"{file} cannot be looked at: {error.strerror}",
            "Keys that are pinned in it would be passed over.",
            "change the permissions of its folder, or set XDG_CONFIG_HOME to another",
        ) from error


def _text_of(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--key {file} cannot be read: {error}", "No signature can be checked.", "check the path"
        ) from error


def _checked(text: str, file: str | Path) -> str:
    """Return the text of public keys, after reading them. Raises InputError."""
    try:
        from teacher_cache.archive.format.signature import keys_in  # it needs the extra `share`
    except ImportError as error:
        raise InputError(
            f"--key {file}: {error}", "No signature can be checked.", "pip install 'teacher-cache[share]'"
        ) from error
    keys_in(text, file)
    return text


def _valid_statements(store: Store, manifest: Manifest, keys: str, url: str) -> list[Statement]:
    """Return the statements about an archive that pinned keys signed. Raises ArchiveError if none did."""
    from teacher_cache.archive.format.signature import check_signatures, keys_in

    found = check_signatures(store, manifest, keys_in(keys, "the pinned keys"))
    if not found.valid:
        raise ArchiveError(
            f"{url} is not validly signed: {'; '.join(found.problems)}",
            "None of its labels is used.",
            "add its signer's key to the file of --key or to your own file of pinned keys, if you trust it",
        )
    return found.valid


def _refuse_older(seen: Store, url: str, statements: Sequence[Statement]) -> None:
    """See `Trust.refuse_older`."""
    here = max((date for one in statements if (date := _date(one.when))), default=None)
    name = f"{sha256_hex(f'{statements[0].fingerprint} {url}'.encode())[:32]}.txt"
    last = _date(seen.get(name).decode().split()[0]) if seen.stat_optional(name) else None
    if last is not None and (here is None or here < last):
        dates = " and ".join(sorted(statement.when for statement in statements))
        raise ArchiveError(
            f"{url} was replaced by an older version, signed on {dates}: "
            f"a version of {last.isoformat()} was seen: {seen.path(name)}",
            "Labels that its signer has replaced would be used.",
            "ask the signer; to accept the older version, delete that file",
        )
    if here is None or here == last:
        return
    try:
        seen.put(name, f"{here.isoformat()} {url}\n".encode())
    except StoreError as error:  # a home that may not be written
        warnings.warn(f"an older version of {url} would not be noticed: {error.value}", stacklevel=2)


def _date(text: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
