"""Catalogs: what lies in a folder or bucket, found by people on a page and by extract by its fingerprint."""

import json
import shutil
from pathlib import Path

import pytest
from support import extract_flags, labels_tree, new_key, tree

from pipelines.cli import main
from teacher_cache.errors import ArchiveError
from teacher_cache.sharing.catalog_file import read_catalog
from teacher_cache.storage.store import Store


@pytest.fixture
def shelf(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with an archive, its catalog, and an archive that cannot be read."""
    root = tmp_path / "shelf"
    assert main(["push", labels, str(root / "team-a" / "labels")]) == 0
    assert main(["card", str(root / "team-a" / "labels"), "--name", "<script>alert(1)</script>"]) == 0
    assert main(["catalog", str(root)]) == 0
    capsys.readouterr()
    return root


def test_a_catalog_lists_archives_and_says_what_is_left_out(
    shelf: Path, labels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(labels, shelf / "broken")
    (shelf / "broken" / "manifest.json").write_text("{}")
    assert main(["catalog", str(shelf)]) == 1
    assert "left out: broken: " in capsys.readouterr().out
    catalog = read_catalog(Store(shelf))
    (entry,) = catalog.archives
    assert (entry.path, entry.facts.views, entry.facts.samples) == ("team-a/labels", "0:3", 33)
    assert entry.facts.agreement is not None
    assert [path for path, _ in catalog.left_out] == ["broken"]


def test_names_from_archives_are_text_on_the_page(shelf: Path) -> None:
    page = (shelf / "index.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")


def test_an_extract_takes_all_it_can_and_computes_the_rest(
    shelf: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(extract_flags(data, whole, views="0:4")) == 0
    words = extract_flags(data, out, views="0:4", views_per_unit=None)
    capsys.readouterr()
    plan = ["plan", *words[1:], "--catalog", str(shelf), "--json"]
    assert main(plan) == 0
    planned = json.loads(capsys.readouterr().out)
    ((url, (units, num_bytes)),) = planned["taken"].items()
    assert (url, units, planned["units"]) == (f"{shelf}/team-a/labels", 5, 5)
    assert not out.exists()
    assert main([*words, "--catalog", str(shelf), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["taken"] == {url: [5, num_bytes]}
    assert (report["units"], report["calibration_views"]) == (5, 0)
    assert labels_tree(out) == labels_tree(whole)


def test_an_extract_of_what_is_there_computes_nothing(
    shelf: Path, labels: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*extract_flags(data, tmp_path / "out"), "--catalog", str(shelf)]) == 0
    text = capsys.readouterr().out
    assert "taken     10 units" in text
    assert "nothing was computed" in text
    assert labels_tree(tmp_path / "out") == labels_tree(labels)


def test_an_extract_says_where_nothing_is_found(
    shelf: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = extract_flags(data, tmp_path / "out", topk=1)
    assert main(["plan", *words[1:], "--catalog", str(shelf)]) == 0
    assert f"no archive in {shelf} has units of this request" in capsys.readouterr().out
    assert main([*words, "--catalog", str(tmp_path)]) == 2
    assert "teacher-cache catalog" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", ["../outside", "/etc", "a/../../b", "s3://other/labels", "https://example.org/x", "a\\..\\b", "."]
)
def test_a_catalog_opens_nothing_outside_its_root(path: str, shelf: Path, data: str, tmp_path: Path) -> None:
    document = json.loads((shelf / "catalog.json").read_text())
    document["archives"][0]["path"] = path
    (shelf / "catalog.json").write_text(json.dumps(document))
    with pytest.raises(ArchiveError, match="invalid value"):
        read_catalog(Store(shelf))
    assert main([*extract_flags(data, tmp_path / "out"), "--catalog", str(shelf)]) == 2
    assert not (tmp_path / "out").exists()


def test_a_catalog_that_lies_about_a_fingerprint_is_refused(
    shelf: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(extract_flags(data, other, topk=1, views="0:2")) == 0
    shutil.rmtree(shelf / "team-a" / "labels")
    shutil.copytree(other, shelf / "team-a" / "labels")
    before = tree(shelf)
    assert main([*extract_flags(data, tmp_path / "out"), "--catalog", str(shelf)]) == 2
    assert "is not what the catalog" in capsys.readouterr().err
    assert tree(shelf) == before


def test_one_odd_archive_does_not_spoil_a_catalog(
    shelf: Path, labels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(labels, shelf / "2026-11-27T10:00:00")
    shutil.copytree(labels, shelf / "x$(id)")
    (shelf / "x$(id)" / "croissant.json").write_text(json.dumps({"name": "\ud800 odd"}))
    assert main(["catalog", str(shelf)]) == 1
    assert "left out: 2026-11-27T10:00:00" in capsys.readouterr().out
    assert [entry.path for entry in read_catalog(Store(shelf)).archives] == ["team-a/labels", "x$(id)"]
    assert "teacher-cache pull &#39;" in (shelf / "index.html").read_text()


def test_only_signed_archives_are_taken_where_keys_are_pinned(
    shelf: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = new_key(tmp_path)
    words = [*extract_flags(data, tmp_path / "out"), "--catalog", str(shelf), "--catalog-key", f"{key}.pub"]
    assert main(words) == 2
    assert "no signature by any of the 1 pinned keys" in capsys.readouterr().err
    assert main(["sign", str(shelf / "team-a" / "labels"), "--key", str(key), "--who", "Team A"]) == 0
    assert main(words) == 0
    assert "taken     10 units" in capsys.readouterr().out


def test_a_catalog_of_larger_units_does_not_stop_a_request(
    shelf: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = extract_flags(data, tmp_path / "out", views="3:5", views_per_unit=None)
    assert main(["plan", *words[1:]]) == 2  # 3 begins no block of 2
    capsys.readouterr()
    words = extract_flags(data, tmp_path / "out", views="1:2", views_per_unit=None)
    assert main([*words, "--catalog", str(shelf)]) == 0
    assert "no archive in" in capsys.readouterr().out
