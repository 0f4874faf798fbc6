"""Images indexed where they lie: identity, images and order of a packed copy, each byte read once."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import (
    IMAGES,
    images_column,
    images_of,
    labels_of,
    opened,
    pack_to,
    tar_of,
    write_parquet,
    write_tar,
)
from support import tree

from pipelines.cli import main
from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.dataset.packing.grow import Growth
from teacher_cache.dataset.packing.in_place import files_in, index_in_place
from teacher_cache.dataset.packing.pack import PackOptions
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError, ImageError
from teacher_cache.program.progress import silent
from teacher_cache.storage.local import LocalStore
from teacher_cache.storage.store import Store
from teacher_cache.storage.streamed_file import StreamedFile


class CountingStore(LocalStore):
    """Store that counts the bytes that are read from each object."""

    def __init__(self, url: Path | str) -> None:
        super().__init__(url)
        self.read: dict[str, int] = {}

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        data = super().get_range(name, start, stop)
        self.read[name] = self.read.get(name, 0) + len(data)
        return data


def index(
    source: Store, target: Path, options: SourceOptions | None = None, **changes: object
) -> DatasetInfo:
    flags = {"shard_size": 5, "skip_corrupt": False, "workers": 2, **changes}
    options = options or SourceOptions()
    names = files_in(source, options)
    return index_in_place(source, names, Store(target), options, PackOptions(**flags), silent)[0]  # type: ignore[arg-type]


def tars(root: Path, *, anew: bool = False) -> Path:
    """Write three tars of different lengths, with further members and a hidden one."""
    for number, count in enumerate((4, 7, 2)):
        members = [("._0.jpg", b"\0\5\x16\7")]
        for sample in range(count):
            key = f"{sample:03d}" if anew else f"{number}/{sample:03d}"
            members += [
                (f"{key}.JPEG", IMAGES[(5 * number + sample) % 12]),
                (f"{key}.cls", b"%d" % (sample % 3)),
                (f"{key}.json", b"{}"),
            ]
        write_tar(root / f"wds-{number}.tar", members)
    return root


@pytest.mark.parametrize("anew", [False, True])
def test_an_index_of_tars_is_the_dataset_that_packing_in_order_makes(anew: bool, tmp_path: Path) -> None:
    source = tars(tmp_path / "in", anew=anew)
    info = index(Store(source), tmp_path / "index")
    copy = pack_to(source, tmp_path / "copy", shard_size=5, shuffle=False)
    assert info.sha256 == copy.sha256
    assert (info.shards, info.classes) == (copy.shards, copy.classes)
    assert images_of(tmp_path / "index") == images_of(tmp_path / "copy")
    assert list(labels_of(tmp_path / "index").items()) == list(labels_of(tmp_path / "copy").items())
    assert info.source["left_out"] == [
        {**copy.source["left_out"][0], "names": info.source["left_out"][0]["names"]}
    ]
    assert sum(map(len, tree(tmp_path / "index").values())) < 12_000


def test_an_index_of_parquet_is_the_dataset_that_packing_in_order_makes(tmp_path: Path) -> None:
    for number, names in enumerate((["ant", "bee"], ["bee", "ant"])):
        columns = {"image": images_column(6), "label": [0, 1] * 3}
        write_parquet(tmp_path / "in" / f"train-{number}.parquet", columns, {"label": names})
    info = index(Store(tmp_path / "in"), tmp_path / "index")
    copy = pack_to(tmp_path / "in", tmp_path / "copy", shard_size=5, shuffle=False)
    assert info.sha256 == copy.sha256
    assert images_of(tmp_path / "index") == images_of(tmp_path / "copy")
    assert labels_of(tmp_path / "index") == labels_of(tmp_path / "copy")
    (tmp_path / "in" / "train-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="train-0.parquet has 4 of"):
        opened(tmp_path / "index")


def test_each_byte_is_read_once_and_the_digests_are_the_files(tmp_path: Path) -> None:
    store = CountingStore(tars(tmp_path / "in"))
    info = index(store, tmp_path / "index")
    sizes = {name: len(data) for name, data in tree(tmp_path / "in").items()}
    assert store.read == sizes
    assert info.in_place is not None
    assert {file.name: file.num_bytes for file in info.in_place.files} == sizes


def test_an_index_goes_on_after_it_was_stopped(tmp_path: Path) -> None:
    class Stopped(BaseException):
        pass

    class StoppingStore(LocalStore):
        puts = 0

        def put(self, name: str, data: bytes) -> None:
            if self.puts == 0:
                raise Stopped
            self.puts -= 1
            super().put(name, data)

    source = tars(tmp_path / "in")
    write_tar(
        source / "wds-3.tar",
        [("z.jpg", IMAGES[0][:-200]), ("z.cls", b"0"), ("y.jpg", IMAGES[1]), ("y.cls", b"0")],
    )
    index(Store(source), tmp_path / "whole", skip_corrupt=True)
    for puts in range(9):
        store, names = StoppingStore(tmp_path / f"out{puts}"), files_in(Store(source), SourceOptions())
        store.puts = puts
        packing = PackOptions(shard_size=5, skip_corrupt=True)
        with pytest.raises(Stopped):
            index_in_place(Store(source), names, store, SourceOptions(), packing, silent)  # type: ignore[arg-type]
        again = CountingStore(source)
        index(again, tmp_path / f"out{puts}", skip_corrupt=True)
        assert tree(tmp_path / f"out{puts}") == tree(tmp_path / "whole"), puts
        if puts > 3:
            assert "wds-0.tar" not in again.read  # its digest and samples are in the journal


def test_what_an_index_cannot_be_made_of_is_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "names" / "a.tar", {"x": b"cat"})
    with pytest.raises(DatasetError, match=r"class 'cat', a name(.|\n)*--classes FILE"):
        index(Store(tmp_path / "names"), tmp_path / "out")
    info = index(Store(tmp_path / "names"), tmp_path / "out", SourceOptions(classes=["ant", "cat"]))
    assert info.classes == ("ant", "cat")
    assert labels_of(tmp_path / "out") == {"x": "cat"}
    write_tar(tmp_path / "bad" / "a.tar", {"x.jpg": IMAGES[0][:-200], "x.cls": b"0"})
    with pytest.raises(ImageError, match=r"cannot be decoded(.|\n)*--skip-corrupt"):
        index(Store(tmp_path / "bad"), tmp_path / "out2")
    assert not tree(tmp_path / "out2")
    tar_of(tmp_path / "splits" / "train-0.tar", {"x": b"0"})
    tar_of(tmp_path / "splits" / "val" / "0.tar", {"y": b"0"})
    with pytest.raises(DatasetError, match=r"several splits(.|\n)*--split train"):
        index(Store(tmp_path / "splits"), tmp_path / "out3")
    index(Store(tmp_path / "splits"), tmp_path / "out3", SourceOptions(split="val"))
    assert labels_of(tmp_path / "out3") == {"y": "0"}
    with pytest.raises(DatasetError, match="is a packed dataset already"):
        index(Store(tmp_path / "out3"), tmp_path / "out4", SourceOptions())


@pytest.mark.parametrize("flag", ["--split=train", "--image-column=image"])
def test_a_choice_is_not_ignored_for_one_file(flag: str, tmp_path: Path) -> None:
    tars(tmp_path / "in")
    words = ["pack", str(tmp_path / "in" / "wds-0.tar"), str(tmp_path / "out"), "--in-place"]
    assert main([*words, flag]) == 2
    assert main(words) == 0


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    source = tars(tmp_path / "in")
    index(Store(source), tmp_path / "out")
    data = bytearray((source / "wds-1.tar").read_bytes())
    place = bytes(data).index(IMAGES[5])
    data[place + 50] ^= 1
    (source / "wds-1.tar").write_bytes(data)
    with pytest.raises(DatasetError, match="is not the one that was packed"):
        images_of(tmp_path / "out")
    with pytest.raises(DatasetError, match="It has no shards of its own"):
        Growth(opened(tmp_path / "out"), open_source(str(source)))


def test_a_streamed_file_steps_back_a_little_and_never_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teacher_cache.storage.streamed_file._CHUNK_BYTES", 10)
    (tmp_path / "x").write_bytes(bytes(range(95)))
    store = CountingStore(tmp_path)
    stream = StreamedFile(store, "x")
    assert stream.read(25) == bytes(range(25))
    stream.seek(12)
    assert stream.read(3) == bytes(range(12, 15))
    stream.seek(60)
    assert stream.read(1) == b"\x3c"
    with pytest.raises(ValueError, match="read forward"):
        stream.seek(5)
    stream.seek(0, 2)
    assert stream.read() == b""
    import hashlib

    assert stream.sha256() == hashlib.sha256(bytes(range(95))).hexdigest()
    assert store.read == {"x": 95}


def test_in_a_bucket(s3: str, tmp_path: Path) -> None:
    source = tars(tmp_path / "in")
    bucket = Store(f"{s3}/wds")
    for file in source.iterdir():
        bucket.put(file.name, file.read_bytes())
    assert main(["pack", f"{s3}/wds", str(tmp_path / "index"), "--in-place", "--shard-size=5"]) == 0
    copy = pack_to(source, tmp_path / "copy", shard_size=5, shuffle=False)
    assert opened(tmp_path / "index").info.sha256 == copy.sha256
    assert images_of(tmp_path / "index") == images_of(tmp_path / "copy")
