"""Columns of parquet files: by name or feature, every type that people store, never a guess."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import IMAGES, images_column, images_of, labels_of, pack_to, write_files, write_parquet

from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError, ImageError


def test_an_id_beside_a_label_is_not_taken_for_it(tmp_path: Path) -> None:
    columns = {"image_id": [7, 3, 11], "image": images_column(3), "label": ["cat", "dog", "cat"]}
    source = open_source(str(write_parquet(tmp_path / "a.parquet", columns)))
    assert (source.classes, source.labels) == (["cat", "dog"], [0, 1, 0])


def test_a_column_that_nothing_names_must_be_named(tmp_path: Path) -> None:
    columns = {"image": images_column(3), "fine": [0, 1, 2], "coarse": [0, 1, 0]}
    file = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(DatasetError, match=r"only fine, coarse(.|\n)*--label-column"):
        open_source(str(file))
    assert open_source(str(file), SourceOptions(label_column="coarse")).labels == [0, 1, 0]
    with pytest.raises(DatasetError, match=r"no column 'course'(.|\n)*coarse"):
        open_source(str(file), SourceOptions(label_column="course"))
    both = write_parquet(tmp_path / "b.parquet", columns, {"fine": list("xyz"), "coarse": list("pq")})
    with pytest.raises(DatasetError, match="2 columns that could be the label: fine, coarse"):
        open_source(str(both))
    one = write_parquet(tmp_path / "c.parquet", columns, {"fine": list("xyz")})
    assert open_source(str(one)).classes == ["x", "y", "z"]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
)
def test_labels_of_any_integer_width(kind: pa.DataType, tmp_path: Path) -> None:
    columns = {"image": images_column(3), "label": pa.array([2, 0, 1], kind)}
    assert open_source(str(write_parquet(tmp_path / "a.parquet", columns))).labels == [2, 0, 1]


def test_dictionaries_and_large_types(tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    columns = {
        "image": pa.array(images_column(3), struct),
        "label": pa.array(["cow", "ant", "cow"]).dictionary_encode(),
    }
    pack_to(write_parquet(tmp_path / "a.parquet", columns), tmp_path / "out")
    assert sorted(labels_of(tmp_path / "out").items()) == [
        ("a-00000000", "cow"),
        ("a-00000001", "ant"),
        ("a-00000002", "cow"),
    ]
    assert images_of(tmp_path / "out")["a-00000001"] == IMAGES[1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1], r"row 1 of .* has no label: column 'label' is null"),
        ([0.0, 1.0, 2.0], r"column 'label' of .* holds double"),
        ([[0], [1], [0]], r"column 'label' of .* holds list"),
        ([0, 1, -1], r"row 2 of .* has label -1"),
    ],
)
def test_a_label_that_says_nothing_is_refused(labels: list, message: str, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": images_column(3), "label": labels})
    with pytest.raises(DatasetError, match=message):
        open_source(str(file))


def test_a_label_outside_its_names_is_refused_and_labels_kept_back_are_none(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "a.parquet", {"image": images_column(2), "label": [0, 2]}, {"label": ["x", "y"]}
    )
    with pytest.raises(DatasetError, match="row 1 of .* has label 2, but its file names 2 classes"):
        open_source(str(file))
    columns = {"image": images_column(2), "label": [-1, -1]}
    hidden = open_source(str(write_parquet(tmp_path / "b.parquet", columns, {"label": ["x", "y"]})))
    assert (hidden.classes, hidden.labels) == (["x", "y"], [None, None])


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a-0.parquet", {"image": images_column(1), "label": [0]})
    write_parquet(tmp_path / "a-1.parquet", {"img": images_column(1), "label": [0]})
    with pytest.raises(DatasetError, match=r"a-1.parquet has no column 'image'(.|\n)*img"):
        open_source(str(tmp_path))


def test_an_image_that_lies_beside_the_table_is_read(tmp_path: Path) -> None:
    write_files(tmp_path, {"img/0.jpg": IMAGES[4]})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": None, "path": "img/0.jpg"}, {"bytes": IMAGES[5], "path": "img/none.jpg"}]
    columns = {"image": pa.array(rows, kind), "label": [0, 1]}
    pack_to(write_parquet(tmp_path / "a.parquet", columns), tmp_path / "out")
    assert images_of(tmp_path / "out") == {"a-00000000": IMAGES[4], "a-00000001": IMAGES[5]}
    columns["image"] = pa.array([{"bytes": None, "path": "img/none.jpg"}] * 2, kind)
    with pytest.raises(DatasetError, match=r"row 0 .* has no image bytes, only the path 'img/none.jpg'"):
        open_source(str(write_parquet(tmp_path / "b.parquet", columns)))


def test_columns_that_hold_no_images_are_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": [[1, 2]], "label": [0]})
    with pytest.raises(DatasetError, match=r"image \(list<element: int64>\)(.|\n)*--image-column"):
        open_source(str(file))
    named = write_parquet(tmp_path / "b.parquet", {"md5": [b"0123"], "label": [0]})
    with pytest.raises(DatasetError, match="no column of images"):
        open_source(str(named))
    with pytest.raises(ImageError, match="cannot be decoded"):
        pack_to(named, tmp_path / "out", SourceOptions(image_column="md5"))


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"a.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"}
    )
    with pytest.raises(DatasetError, match=r"pointer of Git LFS(.|\n)*git lfs pull"):
        open_source(str(tmp_path / "a.parquet"))


def write_arrow(file: Path, parquet: Path) -> Path:
    table = pq.read_table(parquet)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return file


def test_the_arrow_files_of_save_to_disk_give_what_parquet_gives(tmp_path: Path) -> None:
    columns = {"image": images_column(5), "label": [2, 0, 1, 2, 0], "more": list(range(5))}
    parquet = write_parquet(tmp_path / "p" / "data-0.parquet", columns, {"label": ["x", "y", "z"]})
    (tmp_path / "a").mkdir()
    write_arrow(tmp_path / "a" / "data-0.arrow", parquet)
    (tmp_path / "a" / "dataset_info.json").write_text("{}")
    infos = [pack_to(tmp_path / name, tmp_path / f"{name}-out") for name in "pa"]
    assert infos[0].sha256 == infos[1].sha256
    assert labels_of(tmp_path / "a-out")["data-0-00000000"] == "z"


def test_arrow_files_that_are_cut_of_another_format_or_beside_parquet_are_refused(tmp_path: Path) -> None:
    parquet = write_parquet(tmp_path / "a.parquet", {"image": images_column(3), "label": [0, 1, 2]})
    arrow = write_arrow(tmp_path / "a.arrow", parquet)
    with pytest.raises(DatasetError, match=r"2 parquet or Arrow files(.|\n)*give one"):
        open_source(str(tmp_path))
    whole = arrow.read_bytes()
    for cut in (2000, 8):  # within a batch, and where a batch ends
        arrow.write_bytes(whole[:-cut])
        with pytest.raises(DatasetError, match=r"a.arrow cannot be read"):
            open_source(str(arrow))
    with pa.OSFile(str(arrow), "wb") as sink:
        pa.ipc.new_file(sink, pa.schema([])).close()
    with pytest.raises(DatasetError, match=r"a.arrow cannot be read"):
        open_source(str(arrow))


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["cat", "dog", "cat"], ["dog", "cat", "eel"], [1, 0, 1]),
        ([False, True, True], ["no", "yes"], [0, 1, 1]),
        ([0, 2, 1], ["z", "y", "x"], [0, 2, 1]),
    ],
)
def test_the_names_of_a_class_label_give_the_order_whatever_the_column_holds(
    labels: list, names: list[str], ids: list[int], tmp_path: Path
) -> None:
    columns = {"image": images_column(3), "label": labels}
    source = open_source(str(write_parquet(tmp_path / "a.parquet", columns, {"label": names})))
    assert (source.classes, source.labels) == (names, ids)


def test_text_that_a_class_label_does_not_name_is_refused(tmp_path: Path) -> None:
    columns = {"image": images_column(2), "label": ["cat", "cow"]}
    with pytest.raises(DatasetError, match="'cow', which is not in the class list"):
        open_source(str(write_parquet(tmp_path / "a.parquet", columns, {"label": ["cat", "dog"]})))


def test_what_datasets_caches_beside_its_arrow_files_is_left_out(tmp_path: Path) -> None:
    parquet = write_parquet(tmp_path / "p.parquet", {"image": images_column(3), "label": [0, 1, 2]})
    (tmp_path / "d").mkdir()
    for name in ("data-00000-of-00001", "cache-0123456789abcdef"):
        write_arrow(tmp_path / "d" / f"{name}.arrow", parquet)
    source = open_source(str(tmp_path / "d"))
    assert len(source.samples) == 3
    assert any("cache-0123456789abcdef.arrow" in note for note in source.notes)
