"""Cards: README.md for people and the hub, croissant.json for machines, and figures that were measured."""

import json
import shutil
import subprocess
from pathlib import Path

import mlcroissant
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from pipelines.cli import main


@pytest.fixture(scope="module")
def described(labels: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "labels"
    shutil.copytree(labels, out)
    words = ["--name", "Ants | bees", "--license", "cc-by-4.0", "--url", "s3://bucket/labels"]
    assert main(["card", str(out), *words, "--image-license", "cc0-1.0"]) == 0
    return out


def test_the_hub_reads_the_front_matter(described: Path) -> None:
    card = DatasetCard.load(described / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.pretty_name == "Ants | bees"
    assert card.data.size_categories == ["n<1K"]


def test_the_page_says_what_was_measured(described: Path) -> None:
    text = (described / "README.md").read_text()
    figures = json.loads((described / "figures" / "labels.json").read_text())["figures"]
    assert f"{figures['agreement']:.2%} of the views" in text
    assert "# Ants \\| bees" in text
    assert "licence of the images | cc0-1.0" in text
    assert "teacher-cache pull s3://bucket/labels labels" in text
    for name in ("confidence", "agreement"):
        with Image.open(described / "figures" / f"{name}.png") as picture:
            assert picture.size > (300, 100)


def test_croissant_has_no_errors_and_its_rows_can_be_read(described: Path) -> None:
    metadata = mlcroissant.Dataset(jsonld=described / "croissant.json").metadata
    assert metadata.issues.errors == set()
    rows = list(mlcroissant.Dataset(jsonld=described / "croissant.json").records("rows"))
    assert len(rows) == 33
    assert {row["rows/label"] for row in rows} == {0, 1, 2}


def test_checksums_and_verify_know_the_card(described: Path, tmp_path: Path) -> None:
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=described, check=True)
    assert main(["verify", str(described), "--level", "full"]) == 0
    shutil.copytree(described, tmp_path / "changed")
    (tmp_path / "changed" / "README.md").write_text("changed")
    assert main(["verify", str(tmp_path / "changed")]) == 1


def test_figures_are_measured_where_they_are_missing(labels: str, data: str, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    shutil.copytree(labels, out)
    shutil.rmtree(out / "figures")
    assert main(["card", str(out), "--name", "x"]) == 0
    assert "## Figures" not in (out / "README.md").read_text()
    assert main(["card", str(out), "--name", "x", "--data", data]) == 0
    assert "## Figures" in (out / "README.md").read_text()
    assert (out / "figures" / "rows.parquet").read_bytes() == (
        Path(labels) / "figures" / "rows.parquet"
    ).read_bytes()
