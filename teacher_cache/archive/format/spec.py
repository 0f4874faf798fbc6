"""Spec of an archive: dataset, recipe, teacher, meaning of the stored numbers; and its fingerprint.

spec.json is written before anything else. The fingerprint is the sha256 over everything that determines the
labels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from teacher_cache.archive.format.documents import FORMAT, VERSION, Count, Sha256, converted
from teacher_cache.archive.format.layout import Layout
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal, sha256_of
from teacher_cache.labels.affinity_rule import AffinityRule, ComponentRule
from teacher_cache.labels.encodings import VALUE_STEP, Values

SPEC_FILE = "spec.json"
OUTPUTS = "teacher's outputs"
"""Name in `made_with` of what the teacher's outputs were found to be."""


SharedKind = Literal["affinity", "basis"]
"""Kind of the arrays that all labels of an archive share."""


class _TeacherFields(TypedDict):
    """Fields of TeacherSpec.to_dict()."""

    model: str
    model_kwargs: dict[str, Any]
    weights_sha256: Sha256
    num_classes: Count
    mean: list[float]
    std: list[float]
    precision: Literal["float32", "bfloat16"]
    settings: NotRequired[dict[str, Any]]
    class_map_sha256: NotRequired[Sha256]


class DatasetRef(TypedDict):
    """Reference to the labelled dataset: its sha256, and [sha256, samples] of each of its shards."""

    sha256: Sha256
    shards: list[tuple[Sha256, Count]]


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """Meaning and units of the stored numbers.

    Attributes:
        k: Number of classes kept.
        classes_sha256: Identity of the class list.
        affinity: Calibration rule of the class affinity (labels/affinity.py); None if the archive has none.
        components: Calibration rule of the basis of codes (labels/components.py); None if there are none.
        values: "q8": eight-bit steps of `value_step` nats, or "float32": see labels/codec.py.
        value_step: Nats per step of "q8".
        order: Order of a label's classes: by falling probability.
        temperature: Temperature of the softmax that the numbers come from.
    """

    k: Count
    num_classes: Annotated[int, Meta(ge=1, le=2**24)]
    classes_sha256: Sha256
    affinity: AffinityRule | None = None
    values: Values = "q8"
    value_step: float = VALUE_STEP
    order: str = "probability"
    temperature: float = 1.0
    components: ComponentRule | None = None

    def __post_init__(self) -> None:
        if (self.value_step, self.order, self.temperature) != (VALUE_STEP, "probability", 1.0):
            raise ArchiveError(
                f"steps of {self.value_step} nats, order by {self.order}, temperature {self.temperature}",
                f"This program reads only steps of {VALUE_STEP} nats, order by probability, temperature 1.",
                "use the release that wrote the archive",
            )
        if not 1 <= max(self.affinity_entries, self.k) <= self.num_classes:
            raise ArchiveError(
                f"k = {self.k} and {self.affinity_entries} affinity entries, with {self.num_classes} classes",
                "Neither may exceed the number of classes, and the larger must be at least 1.",
            )
        if self.affinity is not None and self.k == self.num_classes:
            raise ArchiveError(
                f"k = {self.k} of {self.num_classes} classes, with affinity {self.affinity}",
                "Labels of all classes have no tail mass that an affinity could spread.",
            )

        rule = self.components
        if rule is not None and (
            self.affinity is not None
            or self.values != "q8"
            or not rule["codes"] <= rule["directions"] < self.num_classes
            or self.k == self.num_classes
        ):
            raise ArchiveError(
                f"components {rule} with k = {self.k} of {self.num_classes} classes, values {self.values}, "
                f"affinity {self.affinity}",
                "Codes need q8, no affinity, a tail, and fewer directions than classes.",
            )

    @property
    def shared_kind(self) -> SharedKind:
        """Kind of the arrays that all labels share."""
        return "affinity" if self.components is None else "basis"

    @property
    def shared_title(self) -> str:
        """Name of these arrays in messages."""
        return "the class affinity" if self.components is None else "the basis"

    @property
    def shared_rule(self) -> AffinityRule | ComponentRule | None:
        """Calibration rule of the arrays that all labels share; None if there are none."""
        return self.affinity if self.components is None else self.components

    @property
    def num_codes(self) -> int:
        """Number of codes of a label."""
        return 0 if self.components is None else self.components["codes"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; `components` only where there are any."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name != "components" or value is not None}

    @property
    def affinity_entries(self) -> int:
        """Number of classes kept in each row of the affinity; 0 if there is none."""
        return self.affinity["entries"] if self.affinity else 0


@dataclasses.dataclass(frozen=True)
class ArchiveSpec:
    """Settings that are decided before the first unit.

    Attributes:
        dataset: Dataset that is labelled.
        recipe: Fields of Recipe.to_dict().
        teacher: Fields of TeacherSpec.to_dict().
        labels: Meaning of the stored numbers.
        probe_sha256: Digest of the recipe's probe views.
        views_per_unit: Views in every block but the last; not part of the fingerprint.
        made_with: Versions of the libraries that made the pixels, and what the teacher's outputs were
            found to be when the archive was begun; not part of the fingerprint.

    Raises:
        ArchiveError: A chunk would be too large (see Layout), or a shard before the last is not full.
    """

    dataset: DatasetRef
    recipe: dict[str, Any]
    teacher: dict[str, Any]
    labels: LabelSpec
    probe_sha256: Sha256
    views_per_unit: Annotated[int, Meta(ge=1, le=2**12)]
    made_with: dict[str, str]

    def __post_init__(self) -> None:
        counts = [count for _, count in self.dataset["shards"]]
        if not counts or set(counts[:-1]) - {counts[0]} or counts[-1] > counts[0]:
            raise ArchiveError(
                f"the dataset's shards have {counts[:4]} ... samples",
                "Rows are found by number: all shards must have the same size, the last at most that.",
            )
        converted(self.teacher, _TeacherFields, "the teacher in a spec")
        _ = self.layout  # refuses chunks that are too large

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Fields that determine the labels; the fingerprint is their sha256."""
        return {
            "format": [FORMAT, VERSION],
            "dataset": self.dataset["sha256"],
            "recipe": {name: value for name, value in self.recipe.items() if name != "name"},
            "teacher": self.teacher,
            "labels": self.labels.to_dict(),
            "probe_sha256": self.probe_sha256,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the identity; labels of the same fingerprint are reused, never recomputed."""
        return sha256_of(self.identity)

    @functools.cached_property
    def layout(self) -> Layout:
        """Layout that cuts the labels into objects."""
        shards, labels = self.dataset["shards"], self.labels
        return Layout(
            num_shards=len(shards),
            rows_per_shard=shards[0][1],
            views_per_unit=self.views_per_unit,
            k=labels.k,
            num_classes=labels.num_classes,
            values=labels.values,
            affinity_entries=labels.affinity_entries,
            num_codes=labels.num_codes,
            num_directions=0 if labels.components is None else labels.components["directions"],
        )

    def rows(self, shard: int) -> int:
        """Return the number of samples in a shard."""
        return self.dataset["shards"][shard][1]

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return {**dataclasses.asdict(self), "labels": self.labels.to_dict()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ArchiveSpec:
        """Build a spec from the result of `to_dict`. Raises ArchiveError for any other document."""
        return converted(document, cls, "an archive's spec")


def spec_bytes(spec: ArchiveSpec) -> bytes:
    """Return the content of spec.json."""
    return seal(
        {"format": FORMAT, "version": VERSION, "fingerprint": spec.fingerprint, "spec": spec.to_dict()}
    )


def spec_of(document: Mapping[str, Any], what: str) -> ArchiveSpec:
    """Return the spec in a document. Raises ArchiveError if the document's fingerprint is not the spec's."""
    spec = ArchiveSpec.from_dict(document.get("spec", {}))
    if document.get("fingerprint") != spec.fingerprint:
        raise ArchiveError(
            f"{what} has a fingerprint that does not match its spec",
            "It could be taken for another archive.",
        )
    return spec
