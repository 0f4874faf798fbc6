"""Classes are names before they are numbers: read, mapped by name, bounded, listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layouts import images_column, labels_of, pack_to, tar_of, write_files, write_parquet

from teacher_cache.dataset.sources.class_names import classes_of, ordered, read_class_list, same_class
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError


def test_labels_are_mapped_by_the_names_of_their_own_file(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"], ["cow", "dog"])):
        columns = {"image": images_column(2), "label": [0, 1]}
        write_parquet(tmp_path / "in" / f"train-{number}.parquet", columns, {"label": names})
    info = pack_to(tmp_path / "in", tmp_path / "out")
    assert info.classes == ("cat", "dog", "cow")
    assert labels_of(tmp_path / "out") == {
        "train-0-00000000": "cat",
        "train-0-00000001": "dog",
        "train-1-00000000": "dog",
        "train-1-00000001": "cat",
        "train-2-00000000": "cow",
        "train-2-00000001": "dog",
    }
    assert any("mapped by name" in note for note in open_source(str(tmp_path / "in")).notes)


def test_a_file_without_names_is_taken_only_beside_one_order(tmp_path: Path) -> None:
    columns = {"image": images_column(2), "label": [0, 1]}
    write_parquet(tmp_path / "train-0.parquet", columns)
    write_parquet(tmp_path / "train-1.parquet", columns, {"label": ["cat", "dog"]})
    source = open_source(str(tmp_path))
    assert (source.classes, source.labels) == (["cat", "dog"], [0, 1, 0, 1])
    assert any("train-0.parquet names no classes" in note for note in source.notes)
    write_parquet(tmp_path / "train-2.parquet", columns, {"label": ["dog", "cat"]})
    with pytest.raises(DatasetError, match=r"train-0.parquet does not name its classes(.|\n)*--classes FILE"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path), SourceOptions(classes=["dog", "cat"]))
    assert source.labels == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["cat", "dog", "cat"], ("cat", "dog")),
        ([True, False, True], ("False", "True")),
        (["10", "9", "10"], ("9", "10")),
    ],
)
def test_text_and_booleans_are_names(labels: list, names: tuple[str, ...], tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": images_column(3), "label": labels})
    info = pack_to(file, tmp_path / "out")
    assert info.classes == names
    assert list(dict(sorted(labels_of(tmp_path / "out").items())).values()) == [
        str(label) for label in labels
    ]


def test_a_class_list_gives_order_and_classes_without_images(tmp_path: Path) -> None:
    write_files(tmp_path / "train", [f"{name}/0.jpg" for name in "abcd"])
    write_files(tmp_path / "val", [f"{name}/0.jpg" for name in "abd"])
    train = pack_to(tmp_path / "train", tmp_path / "packed")
    (tmp_path / "list.txt").write_text("d\nc\nb\na\n")
    (tmp_path / "list.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2, "d": 3}))
    for file, order in ((str(tmp_path / "packed"), "abcd"), ("list.txt", "dcba"), ("list.json", "abcd")):
        names = read_class_list(str(tmp_path / file))
        assert names == list(order)
        val = pack_to(
            tmp_path / "val", tmp_path / f"val-{order}{Path(file).suffix}", SourceOptions(classes=names)
        )
        assert (val.class_list == train.class_list) == (order == "abcd")
        assert set(labels_of(tmp_path / f"val-{order}{Path(file).suffix}").values()) == {"a", "b", "d"}
    with pytest.raises(DatasetError, match=r"is of class 'd', which is not in the class list"):
        open_source(str(tmp_path / "val"), SourceOptions(classes=["a", "b", "c"]))


def test_a_class_list_names_the_numbers_of_tars(tmp_path: Path) -> None:
    tar_of(tmp_path / "val.tar", {"x": b"0", "y": b"2"})
    source = open_source(str(tmp_path / "val.tar"), SourceOptions(classes=list("pqrs")))
    assert (source.classes, source.labels) == (list("pqrs"), [0, 2])
    assert any(
        "1 of the class ids 0 to 2 have no image (1 " in note for note in open_source(str(tmp_path)).notes
    )
    with pytest.raises(DatasetError, match="has label 2, but there are 2 classes"):
        open_source(str(tmp_path / "val.tar"), SourceOptions(classes=["p", "q"]))


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a\na\n", "names two classes alike"), ("a\n\nb\n", "1 of them empty"), ("", "0 names")],
)
def test_a_class_list_that_does_not_tell_classes_apart_is_refused(
    text: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        read_class_list(str(tmp_path / "list.txt"))


ALIKE = [
    ("caf\u00e9", "cafe\u0301"),
    ("polar bear", "polar  bear"),
    ("a", "a\u00a0"),
    ("1", "01"),
    ("7", "\uff17"),
]


@pytest.mark.parametrize(("name", "other"), ALIKE)
def test_names_that_are_read_as_one_are_refused_as_two_classes_and_taken_as_one_of_a_list(
    name: str, other: str
) -> None:
    with pytest.raises(DatasetError, match="the dataset names two classes alike"):
        classes_of([name, "z", other], str, None)
    assert classes_of(["z", other, name], str, [name, "z"]).labels == [1, 0, 0]
    assert classes_of([other, "z"], str, [name, "z"]).names == [name, "z"]


@pytest.mark.parametrize("names", [["tench", "crane", "crane", "gold"], ["tench", "crane", "crane ", "gold"]])
def test_a_files_names_that_repeat_are_refused_and_a_list_gives_the_ids_other_names(
    names: list[str], tmp_path: Path
) -> None:
    columns = {"image": images_column(4), "label": [3, 2, 1, 0]}
    file = write_parquet(tmp_path / "a.parquet", columns, {"label": names})
    with pytest.raises(DatasetError, match=r"'crane' \(id 1\) and 'crane ?' \(id 2\)"):
        open_source(str(file))
    source = open_source(str(file), SourceOptions(classes=["tench", "crane bird", "crane machine", "gold"]))
    assert source.labels == [3, 2, 1, 0]


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 3}', "{", '"a"'])
def test_a_class_list_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DatasetError, match=r"cannot be read(.|\n)*Remedy"):
        read_class_list(str(tmp_path / "list.json"))


def test_numbered_folders_are_ordered_by_number_and_it_is_said(tmp_path: Path) -> None:
    write_files(tmp_path / "n", [f"{number}/0.jpg" for number in range(12)])
    source = open_source(str(tmp_path / "n"))
    assert source.classes == [str(number) for number in range(12)]
    assert any("torchvision orders them by name (1, 10, 11 ...)" in note for note in source.notes)
    write_files(tmp_path / "c", [f"c{number}/0.jpg" for number in range(12)])
    source = open_source(str(tmp_path / "c"))
    assert source.classes[:3] == ["c0", "c1", "c10"]
    assert any("timm's own order is natural (c1, c2, c3 ...)" in note for note in source.notes)


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_numbers_are_ordered_by_value(numbers: list[int]) -> None:
    assert ordered(map(str, numbers))[0] == [str(number) for number in sorted(numbers)]


@example(["\u00b2", "\u0663"])  # digits that int() does not take, and digits that it does
@given(st.lists(st.text(min_size=1), min_size=1, max_size=30, unique_by=same_class))
def test_a_class_id_leads_back_to_the_name(names: list[str]) -> None:
    classes = classes_of(names, str, None)
    assert [classes.names[label] for label in classes.labels if label is not None] == names
    assert len(set(classes.names)) == len(classes.names)


@pytest.mark.parametrize("label", [10**9, 2**20, -2])
def test_a_number_that_is_no_class_is_refused_before_anything_is_built(label: int) -> None:
    with pytest.raises(DatasetError, match=f"has label {label}, but class ids end below 1,048,576"):
        classes_of([0, label], lambda number: f"row {number}", None)


def test_labels_of_two_kinds_are_refused() -> None:
    with pytest.raises(DatasetError, match="row 0 has a class id, row 1 a class name"):
        classes_of([0, "cat"], lambda number: f"row {number}", None)
    with pytest.raises(DatasetError, match=r"row 2 has no label(.|\n)*--unlabelled"):
        classes_of(["ant", "cat", None], lambda number: f"row {number}", None)
