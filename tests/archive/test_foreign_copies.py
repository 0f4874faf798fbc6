"""Archives from elsewhere that are copied: nothing outside the given places is opened."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import free_port, labels_tree, tree

from pipelines.cli import main
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.storage.store import Store


@pytest.fixture
def part(labels: str, tmp_path: Path) -> Path:
    assert main(["pull", labels, str(tmp_path / "part"), "--shards", "0:2"]) == 0
    return tmp_path / "part"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(manifest_sha256="0" * 64),
        lambda d: d.update(here=[[0, 9]]),
        lambda d: d.update(here=[[0, -1]]),
        lambda d: d.update(elsewhere=[[0, 0]]),
        lambda d: d.update(here="everything"),
        lambda d: d.update(fingerprint="0" * 64),
        lambda d: d.pop("here"),
    ],
    ids=["manifest", "unknown unit", "negative", "not elsewhere", "no list", "fingerprint", "missing"],
)
def test_a_part_that_lies_is_refused(change: Callable[[dict], object], part: Path) -> None:
    document = unseal((part / "part.json").read_bytes())
    change(document)
    (part / "part.json").write_bytes(seal(document))
    with pytest.raises(ArchiveError):
        ArchiveReader(str(part))


def test_objects_named_as_there_that_are_not_are_damage(
    part: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = unseal((part / "part.json").read_bytes())
    document["here"].append([4, 0])
    (part / "part.json").write_bytes(seal(document))
    with pytest.raises(ArchiveError, match="is missing"):
        ArchiveReader(str(part)).labels(4, 0)
    assert main(["verify", str(part)]) == 1
    assert "/c/4/0/0 has no bytes" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["../../../other", "../../../../../etc", "../../../other-bucket/x"])
def test_a_manifest_leads_to_no_other_bucket(url: str) -> None:
    with pytest.raises(InputError, match="out of memory://bucket"):
        Store("memory://bucket/team/labels").beside(url)
    assert Store("memory://bucket/team/labels").beside("../../a").url == "memory://bucket/a"


@pytest.mark.parametrize("name", ["README.md", "figures/labels.json", "receipts/agreement.json"])
def test_links_out_of_an_archive_are_not_followed(
    name: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    assert main(["pull", labels, str(source)]) == 0
    (tmp_path / "secret").write_text("secret")
    (source / name).unlink(missing_ok=True)
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).symlink_to(tmp_path / "secret")
    assert main(["pull", str(source), str(tmp_path / "copy")]) == 2
    assert re.search("is a link that leads out of", capsys.readouterr().err)
    assert all(b"secret" not in data for data in tree(tmp_path / "copy").values())


def test_a_linked_object_is_hashed_like_any_other(labels: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    assert main(["pull", labels, str(source)]) == 0
    (tmp_path / "secret").write_text("secret" * 20)
    file = source / "labels.zarr" / "idx" / "c" / "0" / "0" / "0"
    file.unlink()
    file.symlink_to(tmp_path / "secret")
    assert main(["pull", str(source), str(tmp_path / "copy")]) == 2
    assert all(b"secret" not in data for data in tree(tmp_path / "copy").values())


def test_names_in_checksums_are_those_of_companions_or_nothing(labels: str, web: tuple[Path, str]) -> None:
    folder, url = web
    assert main(["pull", labels, str(folder / "labels")]) == 0
    (folder / "outside.json").write_text("{}")
    with (folder / "labels" / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  ../outside.json\n{'0' * 64}  figures/../../outside.json\n")
    assert main(["pull", f"{url}/labels", str(folder / "copy")]) == 0
    assert labels_tree(folder / "copy") == labels_tree(folder / "labels")
    assert not [name for name in tree(folder / "copy") if "outside" in name]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its URL on a web server that lists nothing we ask for and knows no ranges."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
            break
        except OSError:
            time.sleep(0.1)
    yield tmp_path, f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_a_web_server_is_read_without_a_pull_and_by_one(
    labels: str, web: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = web
    assert main(["push", labels, str(folder / "labels")]) == 0
    assert main(["card", str(folder / "labels"), "--name", "x"]) == 0
    reader, local = ArchiveReader(f"{url}/labels"), ArchiveReader(labels)
    for view in (0, 2):
        assert (reader.labels(1, view).class_ids_BK == local.labels(1, view).class_ids_BK).all()
    assert main(["verify", f"{url}/labels", "--level", "full"]) == 0
    capsys.readouterr()
    assert main(["pull", f"{url}/labels", str(folder / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == 10
    assert tree(folder / "copy") == tree(folder / "labels")
    assert main(["push", labels, f"{url}/elsewhere"]) == 2
    assert "a web server is only read" in capsys.readouterr().err
