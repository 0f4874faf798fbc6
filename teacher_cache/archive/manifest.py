"""The archive's documents: the spec of what is asked, a receipt per finished unit, the manifest of them all.

    spec.json               written first: what determines the labels, and the layout
    receipts/00012-003.json written after a unit's objects: makes the unit count
    manifest.json           written last: the spec, every unit with its hashes, and what is covered

All are sealed canonical JSON (canonical.py) and hold no clock, path or host: the same request gives the same
bytes. The fingerprint is the sha256 over what determines the labels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from teacher_cache.archive.layout import ARRAYS, Layout, Unit
from teacher_cache.canonical import seal, sha256_of, unseal
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.labels.codec import VALUE_STEP

FORMAT = "teacher-cache-archive"
VERSION = 1
SPEC_FILE = "spec.json"
MANIFEST_FILE = "manifest.json"
RECEIPTS = "receipts"


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """What the stored numbers mean: the units a label carries.

    Attributes:
        k: Classes kept.
        num_classes: Classes in all.
        classes_sha256: Identity of the class list.
        values: "q8": eight-bit steps of `value_step` nats, as in labels/codec.py.
        value_step: See values.
        order: Of a label's classes: by falling probability.
        temperature: Of the softmax the numbers come from.
        affinity: How the class affinity was calibrated, or None if the archive has none.
    """

    k: int
    num_classes: int
    classes_sha256: str
    values: str = "q8"
    value_step: float = VALUE_STEP
    order: str = "probability"
    temperature: float = 1.0
    affinity: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class ArchiveSpec:
    """Everything that is decided before the first unit.

    Attributes:
        dataset: sha256 of the packed dataset, and [sha256, samples] of each of its shards.
        recipe: Recipe.to_dict().
        teacher: TeacherSpec.to_dict().
        labels: See LabelSpec.
        probe_sha256: Digest of the recipe's probe views.
        views_per_unit: Layout only; no part of the fingerprint.
        made_with: Versions of the libraries that made the pixels; no part of the fingerprint.
    """

    dataset: dict[str, Any]
    recipe: dict[str, Any]
    teacher: dict[str, Any]
    labels: LabelSpec
    probe_sha256: str
    views_per_unit: int
    made_with: dict[str, str]

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the labels: what the fingerprint is the sha256 of."""
        return {
            "format": [FORMAT, VERSION],
            "dataset": self.dataset["sha256"],
            "recipe": {name: value for name, value in self.recipe.items() if name != "name"},
            "teacher": self.teacher,
            "labels": dataclasses.asdict(self.labels),
            "probe_sha256": self.probe_sha256,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Same fingerprint: reuse, never recompute."""
        return sha256_of(self.identity)

    @property
    def layout(self) -> Layout:
        """How the labels are cut into objects."""
        shards = self.dataset["shards"]
        return Layout(len(shards), shards[0][1], self.views_per_unit, self.labels.k, self.labels.num_classes)

    def rows(self, shard: int) -> int:
        """Return how many samples a shard holds."""
        return self.dataset["shards"][shard][1]

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ArchiveSpec:
        """Build a spec from what `to_dict` gave."""
        return cls(**{**document, "labels": LabelSpec(**document["labels"])})


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Proof of one finished unit.

    Attributes:
        unit: What was computed.
        rows: Samples in it.
        keys_sha256: Digest of their keys, in order.
        objects: Per array: sha256 and size in bytes of its object.
    """

    unit: Unit
    rows: int
    keys_sha256: str
    objects: dict[str, tuple[str, int]]

    @property
    def num_bytes(self) -> int:
        """Bytes of all its objects."""
        return sum(size for _, size in self.objects.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain JSON values."""
        return {
            "shard": self.unit.shard,
            "block": self.unit.block,
            "views": [self.unit.first_view, self.unit.stop_view],
            "rows": self.rows,
            "keys_sha256": self.keys_sha256,
            "objects": {array: list(self.objects[array]) for array in ARRAYS},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Receipt:
        """Build a receipt from what `to_dict` gave."""
        return cls(
            unit=Unit(document["shard"], document["block"], *document["views"]),
            rows=document["rows"],
            keys_sha256=document["keys_sha256"],
            objects={array: (digest, size) for array, (digest, size) in document["objects"].items()},
        )


def receipt_name(unit: Unit) -> str:
    """Return where a unit's receipt lies in the archive."""
    return f"{RECEIPTS}/{unit.name}.json"


def spec_bytes(spec: ArchiveSpec) -> bytes:
    """Return the content of spec.json."""
    return seal(
        {"format": FORMAT, "version": VERSION, "fingerprint": spec.fingerprint, "spec": spec.to_dict()}
    )


def receipt_bytes(receipt: Receipt, fingerprint: str) -> bytes:
    """Return the content of a receipt's file."""
    return seal({"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "unit": receipt.to_dict()})


def manifest_bytes(spec: ArchiveSpec, receipts: Sequence[Receipt]) -> bytes:
    """Return the content of manifest.json."""
    return seal(
        {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": spec.fingerprint,
            "spec": spec.to_dict(),
            "views": complete_views(spec, receipts),
            "units": [receipt.to_dict() for receipt in sorted(receipts, key=lambda receipt: receipt.unit)],
            "extends": [],
        }
    )


def zarr_documents(spec: ArchiveSpec, receipts: Sequence[Receipt]) -> dict[str, bytes]:
    """Return every zarr.json by name: the arrays, and in the group's attributes what their numbers mean."""
    num_views = max((receipt.unit.stop_view for receipt in receipts), default=0)
    attributes = {"teacher_cache": {"fingerprint": spec.fingerprint, **dataclasses.asdict(spec.labels)}}
    return spec.layout.metadata(num_views, attributes)


def complete_views(spec: ArchiveSpec, receipts: Sequence[Receipt]) -> list[int]:
    """Return the view indices that every shard has, rising."""
    counts: dict[int, int] = {}
    for receipt in receipts:
        for view in receipt.unit.views:
            counts[view] = counts.get(view, 0) + 1
    return sorted(view for view, count in counts.items() if count == spec.layout.num_shards)


def open_document(data: bytes, what: str) -> dict[str, Any]:
    """Decode spec.json, a receipt or manifest.json.

    Raises:
        DamagedError: Its bytes are not as they were written.
        ArchiveError: It is of another format, or of a version this program does not know.
    """
    try:
        document = unseal(data)
    except ValueError as error:
        raise DamagedError(
            f"{what} is damaged: {error}",
            "What it vouches for is not certain.",
            "run the same extract again, or copy the archive again",
        ) from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise ArchiveError(
            f"{what} has format {document.get('format')!r}, version {document.get('version')!r}",
            f"This program reads {FORMAT} version {VERSION}.",
            "use the release that wrote it, or extract again",
        )
    return document
