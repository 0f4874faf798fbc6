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
        samples: Number of its samples.
        shards: Number of its shards.
        classes: Number of classes.
        weights: sha256 of its weights.
        precision: Type of its forward pass.
        views: View indices that every shard has, as text: "0:8".
        num_views: Number of these.
        views_per_unit: Views in a block, the smallest part that can be pulled.
        covers: Units that the archive has, and units of the whole archive if it is a part.
        label_bytes: Bytes of all objects of labels.
        agreement, confidence, entropy, tail: Means over all labels; None where they were not measured.
        signed_by: Signers, as the statements say; a catalog does not check them.
        image_license, teacher_license: Licences, as the first statement says.
        gpu_hours: Hours of the teachers, as the first statement says.
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
