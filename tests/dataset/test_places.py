"""Places that documents name: what is inside a folder opens, and nothing else is even touched."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import gate
from hypothesis import given
from hypothesis import strategies as st
from layouts import IMAGES, write_tar

from pipelines.cli import main
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import DatasetError, InputError
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.storage.local_copies import local_folder
from teacher_cache.storage.places import checked_place, is_inside, path_inside
from teacher_cache.storage.store import Store


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Folder of a tar, with an index of it in a subfolder."""
    write_tar(tmp_path / "in" / "a.tar", {f"{n}.jpg": image for n, image in enumerate(IMAGES[:4])})
    words = ["pack", str(tmp_path / "in"), str(tmp_path / "index"), "--in-place", "--unlabelled"]
    assert main(words) == 0
    return tmp_path / "index"


def with_root(index: Path, root: str) -> str:
    """Replace the place of the images, as the maker of a dataset can."""
    file = index / "dataset.json"
    document = unseal(file.read_bytes())
    document["in_place"]["root"] = root
    file.write_bytes(seal(document))
    return str(index)


def test_a_chain_of_urls_runs_no_code(indexed: Path, tmp_path: Path) -> None:
    """fsspec before 2026.9 rendered templates of reference files: code of the dataset's maker ran."""
    marker = tmp_path / "ran"
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    refs = {"version": 1, "templates": {"u": template}, "refs": {"a.tar": ["{{u}}", 0, 1]}}
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    for root in (f"reference://::{tmp_path}/refs.json", f"simplecache::file://{tmp_path}/in"):
        with pytest.raises(DatasetError, match="outside its own folder"):
            PackedDataset(with_root(indexed, root), images_in=[str(tmp_path)])
        with pytest.raises(DatasetError, match="outside its own folder"):
            PackedDataset(with_root(indexed, root), images_in=[root])
        with pytest.raises(InputError, match="is a chain of URLs"):
            Store(root)
    assert not marker.exists()


def test_no_request_is_sent_and_no_folder_is_read(indexed: Path, tmp_path: Path) -> None:
    with gate(tmp_path) as server:
        url = f"http://127.0.0.1:{server.server_port}/x"
        above = f"{indexed}/../in"
        for root in (url, "/usr", "s3://bucket/images", "../in", above, f"file://{above}", "\0"):
            with pytest.raises(DatasetError, match=r"outside its own folder"):
                PackedDataset(with_root(indexed, root))
        assert main(["inspect", "--data", with_root(indexed, url)]) == 2
        assert server.asked == []


def test_what_the_user_names_is_opened(indexed: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "in")
    for allowed in (root, str(tmp_path), f"file://{root}/"):
        assert PackedDataset(with_root(indexed, root), images_in=[allowed]).image_bytes(0) == IMAGES[0]
    assert main(["inspect", "--data", str(indexed), "--images-in", root, "--recipe", "eval"]) == 0
    (tmp_path / "in").rename(indexed / "in")
    assert PackedDataset(with_root(indexed, str(indexed / "in"))).image_bytes(0) == IMAGES[0]


@pytest.mark.parametrize("name", ["/etc/passwd", "../in/a.tar", "x/../../in/a.tar", "a\0.tar", "", "./a.tar"])
def test_a_file_of_an_index_is_below_its_root(indexed: Path, name: str) -> None:
    file = indexed / "dataset.json"
    document = unseal(file.read_bytes())
    document["in_place"]["files"][0]["name"] = name
    file.write_bytes(seal(document))
    with pytest.raises(DatasetError, match="holds an invalid value"):
        PackedDataset(str(indexed), images_in=[document["in_place"]["root"]])


@pytest.mark.parametrize("path", ["{outside}", "../private.jpg", "sub/../../private.jpg", "link.jpg", "a\0b"])
def test_a_path_in_a_parquet_file_stays_beside_it(tmp_path: Path, path: str) -> None:
    (tmp_path / "private.jpg").write_bytes(IMAGES[0])
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.jpg").symlink_to(tmp_path / "private.jpg")
    named = path.format(outside=tmp_path / "private.jpg")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": named}], "label": [0]}), folder / "a.parquet")
    assert main(["pack", str(folder), str(tmp_path / "out")]) == 2
    assert not list(tmp_path.glob("out/*.tar"))


@given(st.text("ab./:\\\0é", max_size=12))
def test_a_path_is_inside_or_refused(tmp_path_factory: pytest.TempPathFactory, named: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "inside"
    try:
        found = Path(path_inside(str(folder), named)).resolve()
    except InputError:
        return
    assert found.is_relative_to(folder.resolve())


@given(st.sampled_from(["s3://b/x", "http://h/x", "/data/x"]), st.text("x/.b:", max_size=8))
def test_a_place_beside_or_above_is_not_inside(place: str, tail: str) -> None:
    named = place + tail
    if is_inside(named, place):
        assert ".." not in named.split("/") or named.startswith("/")
        assert named == place or named.startswith((f"{place}/",)) or named.startswith("/")
    assert not is_inside(f"{place}y", place)
    assert not is_inside(f"{place}/../y", place)
    assert not is_inside(f"simplecache::{place}" if "://" in place else f"a::file://{place}", place)


def test_dots_are_dots_in_any_spelling() -> None:
    for url in ("http://h/a/%2e%2e/secret", "http://h/a/%2E./secret", "http://h/a/x/../../b"):
        assert not is_inside(url, "http://h/a")
    with pytest.raises(ValueError, match="leaves the store"):
        Store("http://127.0.0.1:9/a").path("x/%2e%2e/y")
    with pytest.raises(InputError, match="out of"):
        Store("http://127.0.0.1:9/a").beside("%2e%2e/../../b/%2e%2e")


def test_a_revision_counts_as_its_repository() -> None:
    assert is_inside(f"hf://datasets/acme/labels@{'0' * 40}/a", "hf://datasets/acme/labels")
    assert not is_inside("hf://datasets/acme/labels2", "hf://datasets/acme/labels")
    assert checked_place("/data/a/b", Store("/data/a"), ()) == "/data/a/b"


def test_a_name_in_a_bucket_does_not_lead_out_of_a_copy(s3: str, tmp_path: Path) -> None:
    bucket = Store(s3)
    bucket._opened.pipe_file(f"{bucket.root}/in/../../escaped.jpg", IMAGES[0])  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="leads out of"), local_folder(f"{s3}/in"):
        pass
    assert not list(tmp_path.parent.rglob("escaped.jpg"))
