"""Labels in a table beside images: Hugging Face's metadata files, and any list with --labels."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import labels_of, pack_to, write_files

from pipelines.cli import main
from teacher_cache.dataset.index import read_info
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.label_columns import labels_in
from teacher_cache.dataset.sources.label_table import read_table
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import NO_ROW_IMAGE, SourceOptions
from teacher_cache.errors import DatasetError
from teacher_cache.storage.store import Store

ANIMALS = {"0": "cat", "1": "dog", "2": "cat", "3": "eel"}


def source(root: Path, names: Mapping[str, object] | list[str], **tables: str) -> Path:
    """Write images, and tables beside them by name: metadata_csv is metadata.csv."""
    write_files(root, list(names))
    for name, text in tables.items():
        (root / name.replace("__", "/").replace("_csv", ".csv").replace("_jsonl", ".jsonl")).write_text(text)
    return root


def csv_of(labels: Mapping[str, object], header: str = "file_name,label") -> str:
    return header + "\n" + "".join(f"{name}.jpg,{label}\n" for name, label in labels.items())


def labels_by(
    root: Path, text: str, *, name: str = "labels.csv", column: str | None = None
) -> dict[str, str]:
    """Return the class names of images by key, with a table given."""
    (root.parent / name).write_text(text)
    options = SourceOptions(labels=read_table(root.parent / name, name), label_column=column)
    found = open_source(str(root), options)
    return {sample.key: found.classes[sample.label] for sample in found.samples if sample.label is not None}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_files_give_the_labels(name: str, tmp_path: Path) -> None:
    rows = [{"file_name": f"{key}.jpg", "label": label} for key, label in ANIMALS.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_files(tmp_path / "in", [f"{key}.jpg" for key in ANIMALS])
    (tmp_path / "in" / name).write_text(csv_of(ANIMALS) if name.endswith("csv") else lines)
    info = pack_to(tmp_path / "in", tmp_path / "out")
    assert info.classes == ("cat", "dog", "eel")
    assert labels_of(tmp_path / "out") == ANIMALS
    assert "left_out" not in info.source


def test_a_table_holds_for_the_folders_below_it_and_the_nearest_holds(tmp_path: Path) -> None:
    names = {"a/0.jpg": "cat", "a/1.jpg": "dog", "b/0.jpg": "eel"}
    table = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in names.items())
    source(tmp_path / "in", names, metadata_csv=table, b__metadata_csv="file_name,label\n0.jpg,cow\n")
    found = open_source(str(tmp_path / "in"))
    assert [found.classes[label or 0] for label in found.labels] == ["cat", "dog", "cow"]
    assert found.left_out.count(NO_ROW_IMAGE) == 1  # b/0.jpg of the upper table


def test_a_table_above_the_split_names_its_files(tmp_path: Path) -> None:
    table = "file_name,label\ntrain/0.jpg,cat\ntrain/1.jpg,dog\ntest/0.jpg,cat\n"
    source(tmp_path / "in", ["train/0.jpg", "train/1.jpg", "test/0.jpg"], metadata_csv=table)
    pack_to(tmp_path / "in", tmp_path / "out", SourceOptions(split="train"))
    assert labels_of(tmp_path / "out") == {"0": "cat", "1": "dog"}
    listed = read_info(Store(tmp_path / "out")).source["left_out"]
    assert {"reason": NO_ROW_IMAGE, "count": 1}.items() <= listed[-1].items()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id,label\n0,cat\n1,dog\n2,cat\n3,eel\n", "train_labels.csv"),
        ("0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,eel\n", "no header.csv"),
        ("label,image\ncat,0.jpg\ndog,1.jpg\ncat,2.jpg\neel,3.jpg\n", "other order.csv"),
        ("0.jpg\tcat\n1.jpg\tdog\n2.jpg\tcat\n3.jpg\teel\n", "tabs.txt"),
        ("in/0.jpg cat\nin/1.jpg dog\nin/2.jpg cat\nin/3.jpg eel\n", "spaces.txt"),
        ("image;class\n0.jpg;cat\n1.jpg;dog\n2.jpg;cat\n3.jpg;eel\n", "semicolons.csv"),
        ("\ufeffpath,target\r\n.\\0.jpg,cat\r\n1.jpg, dog\r\n\r\n2.jpg,cat\r\n3.jpg,eel\r\n", "windows.csv"),
        ('file,class,width\n"0.jpg","cat",1\n1.jpg,dog,1\n2.jpg,cat,1\n3.jpg,eel,1\n', "more columns.csv"),
        (json.dumps({f"{key}.jpg": label for key, label in ANIMALS.items()}), "object.json"),
        (
            json.dumps([{"image": f"{key}.jpg", "label": label} for key, label in ANIMALS.items()]),
            "list.json",
        ),
        ("file_name,label\n" + "".join(f"/data/x/{k}.jpg,{v}\n" for k, v in ANIMALS.items()), "abroad.csv"),
        (json.dumps([{"image_id": int(key), "label": label} for key, label in ANIMALS.items()]), "ids.json"),
        (",path,label\n0,x/3.jpg,eel\n1,x/2.jpg,cat\n2,x/1.jpg,dog\n3,x/0.jpg,cat\n", "pandas index.csv"),
    ],
)
def test_tables_as_people_write_them(text: str, name: str, tmp_path: Path) -> None:
    root = source(tmp_path / "in", [f"{key}.jpg" for key in ANIMALS])
    assert labels_by(root, text, name=name) == ANIMALS


def test_names_of_files_count_where_no_two_images_share_one(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["a/0.jpg", "b/1.jpg"])
    assert labels_by(root, "0.jpg,cat\n1.jpg,dog\n") == {"a/0": "cat", "b/1": "dog"}
    write_files(root, ["b/0.jpg"])
    with pytest.raises(DatasetError, match="images have no row"):
        labels_by(root, "0.jpg,cat\n1.jpg,dog\n")


@pytest.mark.parametrize(
    ("labels", "classes", "ids"),
    [
        (["0", "2", "1"], ["0", "1", "2"], [0, 2, 1]),
        (["1.0", "0.0", "1.0"], ["0", "1"], [1, 0, 1]),
        (["01", "10", "02"], ["01", "02", "10"], [0, 2, 1]),
        (["b", "1", "a"], ["1", "a", "b"], [2, 0, 1]),
        (["True", "False", "True"], ["False", "True"], [1, 0, 1]),
        (["caf\u00e9", "cafe\u0301", "tea"], None, None),
    ],
)
def test_numbers_are_class_ids_and_anything_else_is_a_name(
    labels: list[str], classes: list[str] | None, ids: list[int] | None, tmp_path: Path
) -> None:
    text = "".join(f"{number}.jpg,{label}\n" for number, label in enumerate(labels))
    root = source(tmp_path / "in", ["0.jpg", "1.jpg", "2.jpg"])
    (tmp_path / "t.csv").write_text(text)
    options = SourceOptions(labels=read_table(tmp_path / "t.csv", "t.csv"))
    if classes is None:
        with pytest.raises(DatasetError, match="names two classes alike"):
            open_source(str(root), options)
        return
    found = open_source(str(root), options)
    assert (found.classes, found.labels) == (classes, ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.jpg,cat\n", r"1 of 2 images have no row in t.csv: .*1.jpg(.|\n)*--unlabelled"),
        (
            "0.jpg,cat\n0.jpg,dog\n1.jpg,dog\n",
            r"line 2 of t.csv gives 0.jpg the label 'dog', and one above 'cat'",
        ),
        ("0.jpg,cat\n1.jpg,\n", r"line 2 of t.csv, 1.jpg, has no label(.|\n)*--unlabelled"),
        ("0.jpg,0.25\n1.jpg,0.5\n", r"label '0.25', which does not name a class"),
        ("0.jpg,-1\n1.jpg,0\n", r"label -1"),
        ("0.jpg,cat,1\n1.jpg,dog\n", r"line 2 has 2 cells, and those above 3"),
        ("0.jpg,a,b\n1.jpg,a,b\n", r"0 columns that could hold the labels, of 1, 2, 3(.|\n)*--label-column"),
        ("file,label,class\n0.jpg,a,b\n1.jpg,a,b\n", r"2 columns that could hold the labels"),
        ("file,label,label\n0.jpg,a,b\n1.jpg,a,b\n", "two columns of one name"),
        ("file,label,split\n0.jpg,a,train\n1.jpg,b,test\n", r"several splits: test, train(.|\n)*--no-splits"),
        ("cat\ndog\n", "0 columns that name the images"),
        ("", "has no rows"),
        ('0.jpg,"cat\n1.jpg,dog\n', "cannot be read"),
        ("id,path,label\n0,x/7.jpg,cat\n1,x/8.jpg,dog\n", "0 columns that name the images"),
        ("path,label\nx/7.jpg,0\nx/8.jpg,1\n", "0 columns that name the images"),
        ("image,a,b\n0.jpg,1,0\n1.jpg,0,1\n", r"A column for each class is not read(.|\n)*one column"),
        ("0.jpg,c\0t\n1.jpg,dog\n", None),
    ],
)
def test_a_table_that_does_not_settle_the_labels_is_refused(
    text: str, message: str | None, tmp_path: Path
) -> None:
    root = source(tmp_path / "in", ["0.jpg", "1.jpg"])
    (tmp_path / "t.csv").write_text(text)
    if message is None:
        options = SourceOptions(labels=read_table(tmp_path / "t.csv", "t.csv"))
        assert open_source(str(root), options).classes == ["c\0t", "dog"]
        return
    with pytest.raises(DatasetError, match=message):
        open_source(str(root), SourceOptions(labels=read_table(tmp_path / "t.csv", "t.csv")))


def test_rows_without_an_image_do_not_decide_what_labels_are(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["train/0.jpg", "train/1.jpg", "train/2.jpg"])
    text = "file_name,label\ntrain/0.jpg,1.0\ntrain/1.jpg,10.0\ntrain/2.jpg,2.0\ntest/0.jpg,\ntest/1.jpg,x\n"
    (root / "metadata.csv").write_text(text)
    found = open_source(str(root), SourceOptions(split="train"))
    assert (found.labels, len(found.classes)) == ([1, 10, 2], 11)


def test_text_in_json_is_a_name_and_a_number_an_id(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["0.jpg", "1.jpg"])
    for value, classes, ids in (("1", ["1", "3"], [0, 1]), (1, ["0", "1", "2", "3"], [1, 3])):
        rows = [{"file_name": "0.jpg", "label": value}, {"file_name": "1.jpg", "label": type(value)(3)}]
        (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = open_source(str(root))
        assert (found.classes, found.labels) == (classes, ids)


def test_a_key_that_json_gives_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"0.jpg": "cat", "0.jpg": "dog"}')
    with pytest.raises(DatasetError, match="it names '0.jpg' twice"):
        read_table(tmp_path / "t.json", "t.json")


def test_captions_and_boxes_are_not_taken_for_classes(tmp_path: Path) -> None:
    root = source(tmp_path / "in", [f"{n}.jpg" for n in range(30)])
    rows = "".join(f"{n}.jpg,a picture of {n}\n" for n in range(30))
    (root / "metadata.csv").write_text("file_name,text\n" + rows)
    with pytest.raises(DatasetError, match=r"0 columns that could hold the labels(.|\n)*--labels folders"):
        open_source(str(root))
    (root / "metadata.csv").rename(tmp_path / "t.csv")
    options = SourceOptions(labels=read_table(tmp_path / "t.csv", "t.csv"))
    with pytest.raises(DatasetError, match=r"30 different values in 30 rows(.|\n)*--label-column"):
        open_source(str(root), options)
    named = SourceOptions(labels=options.labels, label_column="text")
    assert len(open_source(str(root), named).classes) == 30


def test_folders_of_parts_beside_a_table_of_their_images_are_no_classes(tmp_path: Path) -> None:
    names = ["part_1/a.jpg", "part_1/b.jpg", "part_2/c.jpg"]
    root = source(tmp_path / "in", names, labels_csv="image,label\na,x\nb,y\nc,x\n")
    with pytest.raises(
        DatasetError, match=r"differ only in numbers(.|\n)*--labels .*labels.csv(.|\n)*folders"
    ):
        open_source(str(root))
    assert open_source(str(root), SourceOptions(metadata=False)).classes == ["part_1", "part_2"]
    table = read_table(root / "labels.csv", "labels.csv")
    assert open_source(str(root), SourceOptions(labels=table)).labels == [0, 1, 0]


def test_a_table_above_the_source_is_found_and_may_name_paths_from_there(tmp_path: Path) -> None:
    root = source(tmp_path / "d" / "images" / "train", ["0.jpg", "1.jpg"])
    table = tmp_path / "d" / "images" / "train.csv"
    table.write_text("id,label\n0,cat\n1,dog\n")
    with pytest.raises(DatasetError, match=r"train.csv may hold the labels"):
        open_source(str(root))
    far = tmp_path / "t.csv"
    far.write_text("images/train/0.jpg,cat\nimages/train/1.jpg,dog\n")
    found = open_source(str(root), SourceOptions(labels=read_table(far, "https://h/t.csv?sig=SECRET")))
    assert found.classes == ["cat", "dog"]
    table.unlink()
    assert open_source(str(root)).labels == [None, None]


def test_a_row_that_is_left_out_tells_no_place_of_its_table(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["0.jpg"])
    (tmp_path / "t.csv").write_text("0.jpg,cat\n7.jpg,dog\n")
    table = read_table(tmp_path / "t.csv", "https://bob:hunter2@h/t.csv?sig=SECRET")
    info = pack_to(root, tmp_path / "out", SourceOptions(labels=table))
    assert info.source["left_out"][0]["names"] == ["line 2 of t.csv: 7.jpg"]


def test_an_upper_table_without_an_image_of_its_own_is_passed_over(tmp_path: Path) -> None:
    tables = {
        "metadata_csv": "file_name,label\ntest/0.jpg,x\n",
        "train__metadata_csv": "file_name,label\n0.jpg,y\n",
    }
    root = source(tmp_path / "in", ["train/0.jpg", "test/0.jpg"], **tables)
    assert open_source(str(root), SourceOptions(split="train")).classes == ["y"]


def test_images_without_labels_beside_a_table_are_refused_with_the_flag(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["0.jpg", "1.jpg"], train_labels_csv="id,label\n0,cat\n1,dog\n")
    with pytest.raises(DatasetError, match=r"train_labels.csv may hold the labels(.|\n)*--labels .*csv"):
        open_source(str(root))
    assert open_source(str(root), SourceOptions(unlabelled=True)).labels == [None, None]


@pytest.mark.parametrize("text", ["0.jpg 1\n1.jpg 0\n", "a licence\n"])
def test_a_text_counts_as_a_table_where_it_names_the_images(text: str, tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["0.jpg", "1.jpg"])
    (root / "list.txt").write_text(text)
    if "licence" in text:
        assert open_source(str(root)).labels == [None, None]
        return
    with pytest.raises(DatasetError, match="list.txt may hold the labels"):
        open_source(str(root))


def test_a_table_of_another_split_does_not_stop_this_one(tmp_path: Path) -> None:
    source(tmp_path / "in", ["train/0.jpg", "test/0.jpg"], test_csv="id,label\n0,1\n")
    assert open_source(str(tmp_path / "in"), SourceOptions(split="train")).labels == [None]


def test_metadata_without_labels_is_refused_and_folders_can_be_taken(tmp_path: Path) -> None:
    text = "file_name,caption,width\na/0.jpg,x,1\nb/1.jpg,y,1\n"
    root = source(tmp_path / "in", ["a/0.jpg", "b/1.jpg"], metadata_csv=text)
    with pytest.raises(DatasetError, match=r"0 columns that could hold the labels(.|\n)*--label-column"):
        open_source(str(root))
    taken = open_source(str(root), SourceOptions(metadata=False))
    assert (taken.classes, taken.labels) == (["a", "b"], [0, 1])
    assert any("metadata.csv is not read" in note for note in taken.notes)
    named = open_source(str(root), SourceOptions(label_column="caption"))
    assert named.classes == ["x", "y"]


def test_two_metadata_files_or_images_outside_every_table_are_refused(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["a/0.jpg", "b/1.jpg"], a__metadata_csv="file_name,label\n0.jpg,x\n")
    with pytest.raises(DatasetError, match=r"1 images have no table of labels, and others have one: .*b/1"):
        open_source(str(root))
    (root / "a" / "metadata.jsonl").write_text("{}\n")
    with pytest.raises(DatasetError, match=r"metadata.csv and metadata.jsonl(.|\n)*--labels FILE"):
        open_source(str(root))


def test_flags_for_tables_say_what_they_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = str(source(tmp_path / "in", ["a/0.jpg", "b/1.jpg"])), str(tmp_path / "out")
    (tmp_path / "t.csv").write_text("a/0.jpg,cat\nb/1.jpg,dog\n")
    for flags, message in (
        (["--labels", str(tmp_path / "no.csv")], "No such file"),
        (["--label-column", "x"], "which has no table of labels"),
        (["--unlabelled", "--labels", "folders"], "--unlabelled with --labels"),
    ):
        assert main(["pack", root, out, *flags]) == 2
        assert message in capsys.readouterr().err
    assert main(["pack", root, out, "--labels", str(tmp_path / "t.csv")]) == 0
    assert "labels are those of" in capsys.readouterr().out
    assert labels_of(Path(out)) == {"a/0": "cat", "b/1": "dog"}
    assert main(["pack", out, f"{out}2", "--labels", str(tmp_path / "t.csv")]) == 2
    assert "--labels for a source without images in folders" in capsys.readouterr().err


def test_a_column_without_a_name_is_chosen_by_its_number(tmp_path: Path) -> None:
    root = source(tmp_path / "in", ["images/val_0.jpg", "images/val_1.jpg"])
    text = "val_0.jpg\tn02\t0\t0\t9\t9\nval_1.jpg\tn01\t0\t0\t9\t9\n"
    assert labels_by(root, text, name="val_annotations.txt", column="2") == {
        "images/val_0": "n02",
        "images/val_1": "n01",
    }


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs"]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES.filter(lambda name: not set(name) & set("/\\.")), NAMES, min_size=1, max_size=8))
def test_any_table_that_csv_writes_gives_each_image_its_own_row(labels: dict[str, str]) -> None:
    """Whatever the names and labels: each image has the label of its row, or the table is refused."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file_name", "label"])
    writer.writerows((f"{name}.jpg", label) for name, label in labels.items())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.csv").write_text(buffer.getvalue(), encoding="utf-8", newline="")
        table = read_table(Path(folder, "t.csv"), "t.csv")
    paths = [Path("in", f"{name}.jpg") for name in labels]
    try:
        found = labels_in(table, paths, [Path("in")], SourceOptions())
    except DatasetError:
        return
    for number, label in enumerate(labels.values()):
        assert number not in found.labels or str(found.labels[number]) == str_of(label)


def str_of(label: str) -> str:
    return str(int(label)) if label.isascii() and label.isdigit() and label == str(int(label)) else label


def test_packed_labels_are_those_of_the_table_in_any_order(tmp_path: Path) -> None:
    root = source(tmp_path / "in", [f"{n}.jpg" for n in range(10)])
    rows = [f"{n}.jpg,{n % 3}" for n in range(10)]
    for number, text in enumerate(("\n".join(rows), "\n".join(reversed(rows)))):
        (tmp_path / "t.csv").write_text(text)
        options = SourceOptions(labels=read_table(tmp_path / "t.csv", "t.csv"))
        pack_to(root, tmp_path / f"out{number}", options)
        dataset = PackedDataset(str(tmp_path / f"out{number}"))
        found = {dataset.index.key(row): int(dataset.index.labels_N[row]) for row in range(10)}
        assert found == {str(n): n % 3 for n in range(10)}
