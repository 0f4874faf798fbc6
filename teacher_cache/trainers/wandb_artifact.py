"""Artifact of Weights & Biases that refers to an archive: the manifest is a file, labels are references."""

from __future__ import annotations

from pathlib import Path

import wandb

from teacher_cache.archive.format.documents import get_document
from teacher_cache.archive.format.manifest import MANIFEST_FILE, read_manifest
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.storage.store import Store

ARTIFACT_TYPE = "teacher-labels"


def labels_artifact(url: str, name: str | None = None) -> wandb.Artifact:
    """Return an artifact to log with `run.log_artifact`; no label is copied or read.

    The manifest holds the sha256 of every object, so its own sha256, in the metadata, identifies all labels.
    Its entry `labels` refers to the archive, without checksums of W&B's own. So do not download the artifact:
    open the URL with `open_labels`, which checks the sha256 of everything it reads.

    Args:
        url: Finished archive.
        name: Name of the artifact; "labels-" and the fingerprint's first 12 digits by default.

    Raises:
        ArchiveError: There is no finished archive, or its manifest is damaged.
    """
    store = Store(url)
    manifest = read_manifest(store)
    spec, content = manifest.spec, get_document(store, MANIFEST_FILE)
    artifact = wandb.Artifact(
        name or f"labels-{spec.fingerprint[:12]}",
        ARTIFACT_TYPE,
        metadata={
            "manifest_sha256": sha256_hex(content),
            "fingerprint": spec.fingerprint,
            "dataset_sha256": spec.dataset["sha256"],
            "teacher": spec.teacher,
            "recipe": spec.recipe,
            "views": view_ranges([view for first, stop in manifest.views for view in range(first, stop)]),
            "k": spec.labels.k,
            "num_classes": spec.labels.num_classes,
        },
    )
    with artifact.new_file(MANIFEST_FILE, mode="wb") as file:
        file.write(content)
    where = url if "://" in url else Path(url).absolute().as_uri()
    artifact.add_reference(where, name="labels", checksum=False)
    return artifact
