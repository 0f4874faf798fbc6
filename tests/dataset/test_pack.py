import base64
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from support import CLASSES, IMAGES_PER_CLASS, SHARD_SIZE, encoded, picture, tree, write_class_folders

from teacher_cache import images
from teacher_cache.dataset.index import DatasetInfo, read_info
from teacher_cache.dataset.packing.grow import Growth
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.packing.prepare import Reencode
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import Source, SourceOptions
from teacher_cache.errors import DatasetError, ImageError
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store

IMAGES = [encoded(picture(number, 20, 24), "JPEG") for number in range(7)]
DOT_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def packed(source: Source, target: Path, **changes: object) -> DatasetInfo:
    options = {"shard_size": SHARD_SIZE, "seed": 0, "reencode": None, "skip_corrupt": False, "workers": 2}
    return pack(source, Store(target), PackOptions(**{**options, **changes}), silent)


def write_parquet(file: Path, table: dict, features: dict | None = None) -> Path:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), file)
    return file


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def contents(dataset: PackedDataset) -> dict[str, tuple[bytes, int]]:
    return {
        dataset.index.key(row): (dataset.image_bytes(row), int(dataset.index.labels_N[row]))
        for row in range(len(dataset))
    }


def test_class_folders_come_back_image_by_image(folders: Path, tmp_path: Path) -> None:
    packed(open_source(str(folders)), tmp_path / "out")
    dataset = PackedDataset(str(tmp_path / "out"))
    expected = {
        f"{name}/{file.stem}": (file.read_bytes(), label)
        for label, name in enumerate(CLASSES)
        for file in (folders / name).iterdir()
    }
    assert contents(dataset) == expected
    assert dataset.info.classes == CLASSES


def test_all_shards_but_the_last_are_full(dataset: PackedDataset) -> None:
    sizes = [shard.num_samples for shard in dataset.info.shards]
    assert sizes == [8, 8, 8, 8, 1]
    assert sum(sizes) == len(dataset) == len(CLASSES) * IMAGES_PER_CLASS
    assert [list(dataset.rows_of(shard)) for shard in (0, 4)] == [list(range(8)), [32]]


def test_the_order_is_shuffled(dataset: PackedDataset) -> None:
    labels = dataset.index.labels_N.tolist()
    assert labels != sorted(labels)


def test_the_same_source_and_seed_give_the_same_bytes(folders: Path, data: str, tmp_path: Path) -> None:
    packed(open_source(str(folders)), tmp_path / "again", workers=1, crops=True)
    assert tree(tmp_path / "again") == tree(data)
    packed(open_source(str(folders)), tmp_path / "other", seed=1, crops=True)
    assert tree(tmp_path / "other").keys() == tree(data).keys()
    assert tree(tmp_path / "other")["index.parquet"] != tree(data)["index.parquet"]


def test_the_packed_bytes_are_pinned(tmp_path: Path) -> None:
    members = {f"{name}.{ext}": data for name in "abc" for ext, data in (("png", DOT_PNG), ("cls", b"1"))}
    info = packed(open_source(str(write_tar(tmp_path / "in.tar", members))), tmp_path / "out", shard_size=2)
    assert [shard.sha256[:16] for shard in info.shards] == ["02c1d4f1b87f3cb4", "be814506a0c37b1e"]
    assert info.sha256[:16] == "ce6ac763e9f5bf85"


def test_plain_webdataset_reads_the_shards(data: str, dataset: PackedDataset) -> None:
    urls = [str(Path(data) / shard.name) for shard in dataset.info.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == dataset.index.keys.to_pylist()
    for row, sample in enumerate(samples):
        (image,) = (sample[extension] for extension in images.EXTENSIONS if extension in sample)
        assert image == dataset.image_bytes(row)
        assert int(sample["cls"]) == dataset.index.labels_N[row]


@pytest.mark.parametrize("column", ["struct", "binary"])
def test_parquet_comes_back_row_by_row(column: str, tmp_path: Path) -> None:
    rows = [{"bytes": image, "path": None} for image in IMAGES] if column == "struct" else IMAGES
    labels = [0, 1, 2, 0, 1, 2, 0]
    features = {"label": {"_type": "ClassLabel", "names": list("xyz")}}
    write_parquet(tmp_path / "train-00.parquet", {"img": rows[:4], "label": labels[:4]}, features)
    write_parquet(tmp_path / "train-01.parquet", {"img": rows[4:], "label": labels[4:]}, features)
    info = packed(open_source(str(tmp_path)), tmp_path / "out")
    assert info.classes == ("x", "y", "z")
    keys = [f"train-00-{row:08d}" for row in range(4)] + [f"train-01-{row:08d}" for row in range(3)]
    found = contents(PackedDataset(str(tmp_path / "out")))
    assert found == dict(zip(keys, zip(IMAGES, labels, strict=True), strict=True))


def test_parquet_without_class_names_numbers_them(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": IMAGES, "label": [0, 3, 0, 1, 1, 1, 1]})
    assert open_source(str(file)).classes == ["0", "1", "2", "3"]


def test_tars_are_repacked_with_everything_in_them(tmp_path: Path) -> None:
    members = {}
    for number, image in enumerate(IMAGES):
        members |= {
            f"s/{number}.jpg": image,
            f"s/{number}.cls": b"%d" % (number % 2),
            f"s/{number}.json": b"{}",
        }
    write_tar(tmp_path / "in.tar", members)
    packed(open_source(str(tmp_path)), tmp_path / "out", shard_size=3)
    samples = webdataset.WebDataset(
        [str(tmp_path / "out" / f"shard-{n:06d}.tar") for n in range(3)], shardshuffle=False
    )
    found = {sample["__key__"]: {name: sample[name] for name in ("jpg", "cls", "json")} for sample in samples}
    assert found == {
        f"s/{number}": {"jpg": image, "cls": b"%d" % (number % 2), "json": b"{}"}
        for number, image in enumerate(IMAGES)
    }


def test_reencoding_makes_smaller_images_and_is_recorded(folders: Path, tmp_path: Path) -> None:
    info = packed(open_source(str(folders)), tmp_path / "out", reencode=Reencode(32, 90))
    dataset = PackedDataset(str(tmp_path / "out"))
    for row in range(len(dataset)):
        assert max(images.decode(dataset.image_bytes(row), "key").shape) <= 32
        assert images.extension_of(dataset.image_bytes(row)) == "jpg"
    assert (info.source["max_side_px"], info.source["quality"]) == (32, 90)


def test_a_corrupt_image_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "in")
    bad = source / "bee" / "bee04.jpg"
    bad.write_bytes(bad.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"bee04.jpg' cannot be decoded(.|\n)*--skip-corrupt"):
        packed(open_source(str(source)), tmp_path / "out", shard_size=2)
    assert tree(tmp_path / "out") == {}
    info = packed(open_source(str(source)), tmp_path / "out", skip_corrupt=True)
    assert info.num_samples == len(CLASSES) * IMAGES_PER_CLASS - 1
    (skipped,) = read_info(Store(tmp_path / "out")).source["skipped"]
    assert skipped["key"] == "bee/bee04"
    assert "cannot be decoded" in skipped["reason"]


def test_duplicate_keys_are_named_with_their_places(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("a.jpg", "a.cls", "b.jpg", "b.cls", "a.jpg", "a.cls"):
            info = tarfile.TarInfo(name)
            info.size = len(IMAGES[0]) if name.endswith("jpg") else 1
            tar.addfile(info, io.BytesIO(IMAGES[0] if name.endswith("jpg") else b"0"))
    with pytest.raises(DatasetError, match=r"key 'a' occurs 2 times: sample 'a' in .*in.tar"):
        packed(open_source(str(tmp_path / "in.tar")), tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        packed(open_source(str(folders)), tmp_path)
    assert tree(tmp_path) == {"note.txt": b"mine"}


@pytest.mark.parametrize("damage", ["truncate", "append", "remove"])
def test_a_shard_of_another_size_is_refused(damage: str, folders: Path, tmp_path: Path) -> None:
    packed(open_source(str(folders)), tmp_path)
    shard = tmp_path / "shard-000002.tar"
    data = shard.read_bytes()
    shard.unlink()
    if damage != "remove":
        shard.write_bytes(data[:-512] if damage == "truncate" else data + bytes(512))
    with pytest.raises(DatasetError, match=r"shard .*shard-000002.tar has [\d,]+ of [\d,]+ bytes"):
        PackedDataset(str(tmp_path))


def test_a_changed_image_is_found_when_it_is_read(folders: Path, tmp_path: Path) -> None:
    packed(open_source(str(folders)), tmp_path)
    shard = tmp_path / "shard-000000.tar"
    row = 3
    data = bytearray(shard.read_bytes())
    data[int(PackedDataset(str(tmp_path)).index.offsets_N[row]) + 30] ^= 1
    shard.write_bytes(data)
    dataset = PackedDataset(str(tmp_path))
    with pytest.raises(DatasetError, match=f"image of '{dataset.index.key(row)}' .* is not the one"):
        dataset.image_bytes(row)


@pytest.mark.parametrize("file", ["dataset.json", "index.parquet"])
def test_a_damaged_description_is_refused(file: str, folders: Path, tmp_path: Path) -> None:
    packed(open_source(str(folders)), tmp_path)
    data = bytearray((tmp_path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DatasetError, match=f"{file} is damaged"):
        PackedDataset(str(tmp_path))


def test_a_dataset_survives_pickling(dataset: PackedDataset) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(dataset))
    assert again.image_bytes(5) == dataset.image_bytes(5)
    np.testing.assert_array_equal(again.index.labels_N, dataset.index.labels_N)


def test_a_folder_that_webdataset_would_pass_over_gets_a_key_that_it_reads(
    folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders, tmp_path / "images")
    (tmp_path / "images" / "ant").rename(tmp_path / "images" / "__ant__")
    info = packed(open_source(str(tmp_path / "images")), tmp_path / "out")
    assert info.classes == ("__ant__", "bee", "cat")
    urls = [str(tmp_path / "out" / shard.name) for shard in info.shards]
    keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert sum(key.startswith("%5F_ant__/") for key in keys) == IMAGES_PER_CLASS
    assert len(keys) == 33


def test_a_damaged_last_shard_does_not_grow(data: str, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shard = tmp_path / "data" / "shard-000004.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[700] ^= 1
    shard.write_bytes(damaged)
    more = write_class_folders(tmp_path / "more", per_class=12)
    with pytest.raises(DatasetError, match="shard-000004.tar does not have the sha256"):
        Growth(PackedDataset(str(tmp_path / "data")), open_source(str(more)))


def test_growth_is_of_one_kind(data: str, folders: Path, tmp_path: Path) -> None:
    more = write_class_folders(tmp_path / "more", per_class=12)
    growth = Growth(PackedDataset(data), open_source(str(more)))
    with pytest.raises(DatasetError, match="--max-side 32"):
        packed(growth, tmp_path / "out", reencode=Reencode(32, 90), shard_size=8)
    with pytest.raises(DatasetError, match="give --shard-size 8"):
        packed(growth, tmp_path / "out", shard_size=5)
    with pytest.raises(DatasetError, match="already"):
        Growth(PackedDataset(data), open_source(str(folders)))


def test_an_image_above_the_limit_is_packed_if_it_is_shrunk_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_PIXELS_TO_SHRINK", 2000)
    source = tmp_path / "in"
    for name, side in (("ant", 30), ("bee", 40)):
        (source / name).mkdir(parents=True)
        (source / name / "0.png").write_bytes(encoded(picture(1, side, side), "PNG"))
    with pytest.raises(
        ImageError, match=r"is 40 x 40, 1,600 pixels\nMore than 1,000 .*bomb(.|\n)*--skip-corrupt"
    ):
        packed(open_source(str(source)), tmp_path / "out")
    packed(open_source(str(source)), tmp_path / "out", reencode=Reencode(20, 90))
    for image, _ in contents(PackedDataset(str(tmp_path / "out"))).values():
        assert images.decode(image, "key").shape == (20, 20, 3)


def test_the_reason_of_what_is_skipped_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    source = write_class_folders(tmp_path / "in", per_class=2)
    (source / "ant" / "big.png").write_bytes(encoded(picture(1, 40, 40), "PNG"))
    for file in source.rglob("*.jpg"):
        file.write_bytes(encoded(picture(1, 20, 20), "JPEG"))
    info = packed(open_source(str(source)), tmp_path / "out", skip_corrupt=True)
    (skipped,) = info.source["skipped"]
    assert "is 40 x 40, 1,600 pixels" in skipped["reason"]
    assert "decompression bomb" in skipped["reason"]


def test_growth_maps_classes_by_name(data: str, tmp_path: Path) -> None:
    more = write_class_folders(tmp_path / "more", per_class=12)
    for name in ("ant", "cat"):
        shutil.rmtree(more / name)
    source = open_source(str(more), SourceOptions(classes=["bee"]))
    info = packed(Growth(PackedDataset(data), source), tmp_path / "out")
    assert info.classes == CLASSES
    labels = {key: label for key, (_, label) in contents(PackedDataset(str(tmp_path / "out"))).items()}
    assert labels["bee/bee11"] == 1
