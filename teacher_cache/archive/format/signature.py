"""Sign an archive, and check who signed it: ed25519 over a statement and the manifest's bytes.

signatures/<key>.json   the statement: who, when, how, under which licences; and the sha256 of the manifest
signatures/<key>.sig    64 bytes: the signature of the statement's bytes followed by the manifest's bytes

<key> is the beginning of the sha256 of the public key. `openssl pkeyutl -verify -rawin` checks it too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from teacher_cache.archive.format.companions import SIGNATURES, get_companion, get_sums
from teacher_cache.archive.format.documents import Sha256, converted
from teacher_cache.archive.format.manifest import MANIFEST_FILE, Manifest
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.exact.canonical import seal, sha256_hex, unseal
from teacher_cache.storage.store import Store

_FORMAT, _VERSION = "teacher-cache-statement", 1
_ID_DIGITS = 16
_STATEMENT = re.compile(rf"{SIGNATURES}/([0-9a-f]{{{_ID_DIGITS}}})\.json")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_Line = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


@dataclasses.dataclass(frozen=True)
class Statement:
    """Statement about an archive.

    Attributes:
        public_key: Raw ed25519 public key, 64 hexadecimal digits.
        who: Person or team that signs.
        when: Time of signing, in ISO 8601, UTC.
        made_with: Version of teacher-cache that signs.
        device: Devices that computed the labels, as the records of the runs say; empty if unknown.
        gpu_hours: Hours of all teachers together; None if unknown.
        image_license: Licence of the images.
        teacher_license: Licence of the teacher's weights.
    """

    manifest_sha256: Sha256
    fingerprint: Sha256
    public_key: Sha256
    who: _Line
    when: _Line
    made_with: _Line
    device: _Line
    gpu_hours: Annotated[float, Meta(ge=0)] | None
    image_license: _Line
    teacher_license: _Line

    @property
    def key_id(self) -> str:
        """Name of the key in file names and messages."""
        return key_id(bytes.fromhex(self.public_key))

    def __str__(self) -> str:
        hours = "" if self.gpu_hours is None else f", {self.gpu_hours:,.3g} GPU hours"
        device = f" on {self.device}" if self.device else ""
        return (
            f"signed by {self.who} on {self.when} with key {self.key_id}: "
            f"made with {self.made_with}{device}{hours}; "
            f"images {self.image_license or 'of unknown licence'}, "
            f"teacher {self.teacher_license or 'of unknown licence'}"
        )


@dataclasses.dataclass(frozen=True)
class Signatures:
    """Result of checking an archive's signatures against pinned keys.

    Attributes:
        valid: Statements with a valid signature by a pinned key.
        unknown: Names of keys that are not pinned; their statements are not read.
        problems: Descriptions of failed checks, one line each.
    """

    valid: list[Statement]
    unknown: list[str]
    problems: list[str]


def key_id(public_key: bytes) -> str:
    """Return the name of a public key: the beginning of its sha256."""
    return sha256_hex(public_key)[:_ID_DIGITS]


def private_key(file: Path) -> Ed25519PrivateKey:
    """Read an ed25519 private key, as `ssh-keygen -t ed25519` or `openssl genpkey` writes it.

    Raises:
        InputError: The file cannot be read, or holds another kind of key, or one with a passphrase.
    """
    data = _read(file)
    load = (
        serialization.load_ssh_private_key
        if b"OPENSSH PRIVATE KEY" in data
        else serialization.load_pem_private_key
    )
    try:
        key = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(file, str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(file, "it is a key of another kind")
    return key


def keys_in(text: str, file: str | Path) -> dict[str, Ed25519PublicKey]:
    """Return the public keys in a text by `key_id`: lines of OpenSSH keys, or PEM.

    Args:
        file: Name of the text in messages.

    Raises:
        InputError: The text holds no ed25519 public key, or something else.
    """
    data, keys = text.encode(), []
    try:
        if b"-----BEGIN" in data:
            for block in _PEM.findall(data):
                keys.append(serialization.load_pem_public_key(block))
        else:
            for line in data.splitlines():
                if line.strip() and not line.lstrip().startswith(b"#"):
                    keys.append(serialization.load_ssh_public_key(line.strip()))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(file, str(error)) from error
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found or len(found) < len(keys):
        raise _no_key(file, "it holds no ed25519 public key, or keys of other kinds")
    return {key_id(key.public_bytes_raw()): key for key in found}


def sign(store: Store, manifest: Manifest, key: Ed25519PrivateKey, about: Mapping[str, Any]) -> Statement:
    """Write and return a signed statement about an archive; it replaces an earlier one by the same key.

    Args:
        about: Fields of the statement besides those that follow from manifest and key.

    Raises:
        ArchiveError: A field is too long, or holds a control character.
    """
    data, public = manifest.to_bytes(), key.public_key().public_bytes_raw()
    fields = {
        "manifest_sha256": sha256_hex(data),
        "fingerprint": manifest.spec.fingerprint,
        "public_key": public.hex(),
        **about,
    }
    statement = converted(fields, Statement, "a statement")
    signed = statement_bytes(statement)
    name = f"{SIGNATURES}/{statement.key_id}"
    store.put(f"{name}.json", signed)
    store.put(f"{name}.sig", key.sign(signed + data))
    return statement


def statement_bytes(statement: Statement) -> bytes:
    """Return a statement as the JSON file that is signed; the signature is a file beside it."""
    return seal({"format": _FORMAT, "version": _VERSION, "statement": dataclasses.asdict(statement)})


def statements_of(store: Store) -> list[Statement]:
    """Return the readable statements about an archive, signatures unchecked; see `check_signatures`."""
    found = []
    for name in _names(store):
        try:
            found.append(_statement(store, name)[0])
        except ArchiveError:
            continue
    return found


def check_signatures(store: Store, manifest: Manifest, pinned: Mapping[str, Ed25519PublicKey]) -> Signatures:
    """Check the signatures of an archive against pinned keys, and return the result.

    Args:
        pinned: Public keys that are trusted, by `key_id`.
    """
    result = Signatures([], [], [])
    data = manifest.to_bytes()  # never read again: a server may give another manifest to each request
    for name in _names(store):
        of_key = _STATEMENT.fullmatch(name)
        assert of_key is not None
        if of_key[1] not in pinned:
            result.unknown.append(of_key[1])
            continue
        problem = _problem(store, name, manifest, data, pinned[of_key[1]])
        if isinstance(problem, str):
            result.problems.append(problem)
        else:
            result.valid.append(problem)
    if not result.valid and not result.problems:
        unknown = f"; it is signed by {', '.join(result.unknown)}" if result.unknown else ""
        result.problems.append(f"no signature by any of the {len(pinned)} pinned keys{unknown}")
    return result


def _problem(
    store: Store, name: str, manifest: Manifest, data: bytes, key: Ed25519PublicKey
) -> Statement | str:
    """Return the statement if its signature is valid, or else a line that says which check failed."""
    try:
        statement, signed = _statement(store, name)
    except ArchiveError as error:
        return f"{name} was changed: {error.value}"
    if bytes.fromhex(statement.public_key) != key.public_bytes_raw():
        return f"{name} names another key than the pinned one"
    if statement.fingerprint != manifest.spec.fingerprint:
        return f"{name} is about another archive, of fingerprint {statement.fingerprint[:12]}"
    if statement.manifest_sha256 != sha256_hex(data):
        return f"{MANIFEST_FILE} is not the one that {statement.key_id} signed: it was changed since"
    signature = get_companion(store, name.removesuffix(".json") + ".sig")
    if signature is None:
        return f"{name} has no signature beside it"
    try:
        key.verify(signature, signed + data)
    except InvalidSignature:
        return f"{name} is not what {statement.key_id} signed: the statement or its signature was changed"
    return statement


def _statement(store: Store, name: str) -> tuple[Statement, bytes]:
    """Return a statement and its bytes. Raises ArchiveError."""
    data = get_companion(store, name) or b""
    try:
        document = unseal(data)
    except ValueError as error:
        raise ArchiveError(f"{name}: {error}", "The statement may have been changed.") from error
    if (document.get("format"), document.get("version")) != (_FORMAT, _VERSION):
        raise ArchiveError(
            f"{name} is of another format or version", "This program cannot read the statement."
        )
    return converted(document.get("statement"), Statement, name), data


def _names(store: Store) -> list[str]:
    """Return the names of an archive's statements."""
    listed = store.sizes_if_listed(SIGNATURES)
    names = list(get_sums(store)) if listed is None else sorted(listed)
    return [name for name in names if _STATEMENT.fullmatch(name)]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _no_key(file, str(error.strerror)) from error


def _no_key(file: str | Path, why: str) -> InputError:
    return InputError(
        f"--key {file} cannot be used: {why}",
        "An archive is signed and checked with ed25519 keys without a passphrase.",
        f"make one: ssh-keygen -t ed25519 -N '' -f {file}",
    )
