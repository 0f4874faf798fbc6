"""An archive as an artifact of Weights & Biases: found by its manifest's sha256, never copied."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import wandb

from teacher_cache import labels_artifact, open_labels
from teacher_cache.errors import ArchiveError


@pytest.mark.slow
def test_an_artifact_refers_to_the_archive_and_holds_its_manifest(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    content = Path(labels, "manifest.json").read_bytes()
    artifact = labels_artifact(labels)
    spec = open_labels(labels).spec
    assert artifact.type == "teacher-labels"
    assert artifact.metadata["manifest_sha256"] == hashlib.sha256(content).hexdigest()
    assert artifact.metadata["fingerprint"] == spec.fingerprint
    assert artifact.metadata["views"] == "0:3"
    entries = artifact.manifest.entries
    references = {entry.ref for name, entry in entries.items() if name != "manifest.json"}
    root = Path(labels).absolute()
    assert references == {file.as_uri() for file in root.rglob("*") if file.is_file()}
    assert Path(entries["manifest.json"].local_path).read_bytes() == content
    with wandb.init(project="test") as run:
        run.log_artifact(artifact)


def test_an_unfinished_archive_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        labels_artifact(str(tmp_path))
