"""push and pull: an archive, or a part of it, from anywhere to anywhere, hashed, resumed, and whole."""

import json
import shutil
from pathlib import Path

import pytest
from support import extract_flags, labels_tree, tree, write_class_folders

from pipelines.cli import main
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.errors import ArchiveError
from teacher_cache.stream.labelled_views import LabelledViews


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([*map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.fixture(params=["local", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where teams keep archives."""
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "shelf")


def test_an_archive_comes_back_byte_for_byte_and_nothing_is_sent_twice(
    labels: str, shelf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = run(capsys, "push", labels, f"{shelf}/a")
    assert (sent["units"], sent["units_there"]) == (10, 0)
    again = run(capsys, "push", labels, f"{shelf}/a")
    assert (again["units"], again["units_there"], again["moved_bytes"]) == (0, 10, 0)
    run(capsys, "pull", f"{shelf}/a", tmp_path / "copy")
    assert labels_tree(tmp_path / "copy") == labels_tree(Path(labels))
    assert main(["verify", str(tmp_path / "copy"), "--level", "full"]) == 0


def test_a_part_says_what_it_covers_trains_a_student_and_fetches_more_later(
    labels: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    found = run(capsys, "pull", labels, part, "--views", "0:2", "--shards", "1:3")
    assert (found["covers"], found["of"], found["views"], found["shards"]) == (2, 10, [0, 1], [1, 2])
    assert (part / "manifest.json").read_bytes() == Path(labels, "manifest.json").read_bytes()
    assert main(["verify", str(part), "--level", "full"]) == 0
    views, whole = LabelledViews(data, str(part), batch_size=4), ArchiveReader(labels)
    seen: list[int] = []
    for batch in views.epoch(0):
        seen += batch.rows_B.tolist()
        same = whole.lookup(batch.rows_B.numpy(), batch.views_B.numpy())
        assert (batch.labels.class_ids_BK == same.class_ids_BK).all()
    assert sorted(seen) == list(range(8, 24))
    capsys.readouterr()
    rest = run(capsys, "pull", labels, part)
    assert (rest["units"], rest["units_there"], rest["covers"]) == (8, 2, 10)
    assert not (part / "part.json").exists()
    assert labels_tree(part) == labels_tree(Path(labels))


def test_views_within_a_unit_bring_the_whole_unit_and_say_so(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", labels, str(tmp_path / "part"), "--views", "1:2"]) == 0
    assert "views 0:1 come with those asked for" in capsys.readouterr().out
    assert ArchiveReader(str(tmp_path / "part")).views == [0, 1]


def test_a_part_is_not_extracted_into_mended_or_exported(
    labels: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    run(capsys, "pull", labels, part, "--shards", "0:2")
    before = tree(part)
    assert "is a part of an archive" in refused(capsys, *extract_flags(data, part))
    assert "--recheck" in refused(capsys, "repair", part)
    assert "shards 0:2" in refused(capsys, "export", part, tmp_path / "tars", "--data", data)
    assert tree(part) == before


def test_a_part_can_be_passed_on_and_completed_from_two_places(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "pull", labels, tmp_path / "low", "--shards", "0:2")
    run(capsys, "pull", labels, tmp_path / "high", "--shards", "2:5")
    run(capsys, "push", tmp_path / "low", tmp_path / "all")
    found = run(capsys, "push", tmp_path / "high", tmp_path / "all")
    assert (found["covers"], found["shards"]) == (10, None)
    assert labels_tree(tmp_path / "all") == labels_tree(Path(labels))


def test_damage_at_the_source_is_named_and_what_was_copied_before_stays(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    shutil.copytree(labels, source)
    file = source / "labels.zarr" / "idx" / "c" / "3" / "0" / "0"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    message = refused(capsys, "pull", source, copy, "--workers", 1)
    assert "labels.zarr/idx/c/3/0/0 does not have the sha256" in message
    assert not (copy / "manifest.json").exists()
    file.write_bytes(whole)
    found = run(capsys, "pull", source, copy)
    assert 0 < found["units"] < 10
    assert labels_tree(copy) == labels_tree(Path(labels))


def test_recheck_finds_and_mends_a_flipped_byte_in_a_copy(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    run(capsys, "pull", labels, copy)
    file = copy / "labels.zarr" / "tail" / "c" / "0" / "1"
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert run(capsys, "pull", labels, copy)["units"] == 0
    assert run(capsys, "pull", labels, copy, "--recheck")["units"] == 1
    assert labels_tree(copy) == labels_tree(Path(labels))


def test_other_labels_and_other_files_are_never_overwritten(
    labels: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(extract_flags(data, other, views="0:2", topk=1)) == 0
    before = tree(other)
    assert "labels.k" in refused(capsys, "push", labels, other)
    assert tree(other) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert "is not empty" in refused(capsys, "pull", labels, tmp_path / "notes")
    assert "onto itself" in refused(capsys, "pull", labels, labels)
    assert "no unit" in refused(capsys, "pull", labels, tmp_path / "none", "--shards", "7:9")
    assert "--shards 3:1" in refused(capsys, "pull", labels, tmp_path / "none", "--shards", "3:1")


def test_an_extension_refers_to_the_archive_beside_it_and_no_object_lies_twice(
    labels: str, data: str, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "ours"
    run(capsys, "pull", labels, tmp_path / "theirs", "--views", "0:2")
    assert main(extract_flags(data, ours, views="0:4", extends=tmp_path / "theirs")) == 0
    capsys.readouterr()
    run(capsys, "push", labels, f"{s3}/theirs")
    found = run(capsys, "push", ours, f"{s3}/ours")
    assert (found["units"], found["units_there"]) == (5, 5)
    remote = ArchiveReader(f"{s3}/ours")
    assert remote.views == [0, 1, 2, 3]
    assert (remote.manifest.to_bytes(), remote.part) == ((ours / "manifest.json").read_bytes(), None)
    alone = run(capsys, "push", ours, f"{s3}/elsewhere/ours")
    assert alone["units"] == 10
    run(capsys, "pull", f"{s3}/ours", tmp_path / "alone" / "copy")
    copy = ArchiveReader(str(tmp_path / "alone" / "copy"))
    assert copy.views == [0, 1, 2, 3]
    assert (copy.labels(4, 3).class_ids_BK == remote.labels(4, 3).class_ids_BK).all()
    assert main(["verify", str(tmp_path / "alone" / "copy"), "--level", "full"]) == 0


def test_classes_choose_the_shards_that_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, data, out = tmp_path / "images", tmp_path / "data", tmp_path / "labels"
    write_class_folders(images)
    assert main(["pack", str(images), str(data), "--shard-size", "11", "--no-shuffle"]) == 0
    assert main(extract_flags(str(data), out)) == 0
    capsys.readouterr()
    found = run(capsys, "pull", out, tmp_path / "part", "--classes", "bee", "2")
    assert found["shards"] == [1, 2]
    assert found["notes"] == ["2 classes have samples in 2 shards, 1:3, which are copied whole"]
    message = refused(capsys, "pull", out, tmp_path / "other", "--classes", "bea")
    assert "--classes bea" in message
    assert "nearest: bee" in message
    (out / "figures" / "labels.json").unlink()
    assert "figures" in refused(capsys, "pull", out, tmp_path / "other", "--classes", "bee")


@pytest.fixture
def grown(labels: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The same archive with two more views."""
    shutil.copytree(labels, tmp_path / "grown")
    assert main(extract_flags(data, tmp_path / "grown", views="4:6")) == 0
    capsys.readouterr()
    return tmp_path / "grown"


@pytest.mark.parametrize("stopped", ["before the manifest", "before part.json is deleted"])
def test_a_copy_of_a_grown_archive_goes_on_where_it_was_stopped(
    stopped: str, labels: str, grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part, later = tmp_path / "part", tmp_path / "later"
    run(capsys, "pull", labels, part, "--shards", "0:2")
    shutil.copytree(part, later)
    run(capsys, "pull", grown, later, *(("--shards", "0:3") if stopped == "before the manifest" else ()))
    if stopped == "before the manifest":
        (later / "manifest.json").write_bytes((part / "manifest.json").read_bytes())
    else:
        (later / "part.json").write_bytes((part / "part.json").read_bytes())
    with pytest.raises(ArchiveError, match="belongs to another manifest"):
        ArchiveReader(str(later))
    run(capsys, "pull", grown, later)
    assert labels_tree(later) == labels_tree(grown)
    assert not (later / "part.json").exists()


def test_what_was_said_of_the_smaller_archive_does_not_stay(
    labels: str, grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    run(capsys, "pull", labels, copy)
    run(capsys, "pull", grown, copy, "--shards", "0:1")
    assert not (copy / "figures" / "rows.parquet").exists()
    assert main(["verify", str(copy), "--level", "full"]) == 0


def test_an_archive_that_grows_needs_new_checksums_and_is_not_damaged(
    labels: str, data: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(labels, out)
    assert main(["card", str(out), "--name", "x"]) == 0
    assert main(extract_flags(data, out, views="4:6")) == 0
    assert not (out / "SHA256SUMS").exists()
    assert main(["verify", str(out), "--level", "full"]) == 0


def test_recheck_mends_the_affinity_and_the_documents_too(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    run(capsys, "pull", labels, copy)
    for name in ("labels.zarr/affinity_dq/c/0/0", "labels.zarr/idx/zarr.json", "manifest.json"):
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
    run(capsys, "pull", labels, copy, "--recheck")
    assert labels_tree(copy) == labels_tree(labels)


def test_damage_outside_of_what_is_asked_for_is_not_taken_for_a_unit_later(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    run(capsys, "pull", labels, copy)
    file = copy / "labels.zarr" / "idx" / "c" / "3" / "0" / "0"
    file.write_bytes(bytes(len(file.read_bytes())))
    assert run(capsys, "pull", labels, copy, "--shards", "0:1", "--recheck")["covers"] == 9
    assert run(capsys, "pull", labels, copy)["units"] == 1
    assert labels_tree(copy) == labels_tree(labels)
