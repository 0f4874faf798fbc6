"""Facts that tell one archive from others: dataset, teacher, recipe, views, size, figures, who signed it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from msgspec import Meta

from teacher_cache.archive.format.documents import Sha256

Text = Annotated[str, Meta(max_length=500)]


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts of an archive, as plain JSON values.

    Attributes:
        dataset: sha256 of the packed dataset.
        samples: Number of samples in the dataset.
        shards: Number of shards in the dataset.
        classes: Number of classes.
        weights: sha256 of the teacher's weights.
        precision: Precision of the teacher's forward pass.
        views: View indices that every shard has, as text: "0:8".
        num_views: Number of these view indices.
        views_per_unit: Views in a unit, the smallest part that can be pulled.
        covers: Number of units that this copy has, and that the whole archive has.
        label_bytes: Total size of all objects of labels in bytes.
        agreement, confidence, entropy, tail: Means over all labels; None where they were not measured.
        signed_by: Signers that the statements name; their signatures are not checked here.
        image_license, teacher_license: Licences, from the first statement.
        gpu_hours: GPU hours of all teachers together, from the first statement.
    """

    fingerprint: Sha256
    manifest_sha256: Sha256
    dataset: Sha256
    samples: int
    shards: int
    classes: int
    teacher: Text
    weights: Sha256
    precision: Text
    recipe: Text
    img_size: int
    topk: int
    values: Text
    views: Text
    num_views: int
    views_per_unit: int
    covers: tuple[int, int]
    label_bytes: int
    agreement: float | None
    confidence: float | None
    entropy: float | None
    tail: float | None
    signed_by: list[Text]
    image_license: Text
    teacher_license: Text
    gpu_hours: float | None
