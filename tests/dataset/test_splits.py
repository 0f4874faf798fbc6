"""Splits: chosen or refused, never mixed, by Hugging Face's words anywhere in a name."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from layouts import IMAGES, images_column, labels_of, pack_to, tar_of, write_files, write_parquet

from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.dataset.sources.splits import split_of
from teacher_cache.errors import DatasetError

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@pytest.mark.parametrize(("split", "words"), WORDS.items())
def test_a_word_of_a_split_counts_anywhere_in_a_name_and_in_any_case(
    split: str, words: tuple[str, ...]
) -> None:
    for word in words:
        for name in (word, word.upper(), word.title(), f"seg_{word}", f"{word}_set", f"{word}set"):
            assert split_of(name) == split, name
        for name in (f"imagenet1k-{word}-0000", f"{word}2017", f"a.{word}.b", f"my {word} (1)", f"1{word}1"):
            assert split_of(name) == split, name


@pytest.mark.parametrize("name", ["valley", "trainer", "contest", "devil", "evaluate", "latest", "cat"])
def test_a_word_inside_a_word_is_none(name: str) -> None:
    assert split_of(name) is None


def test_a_name_with_two_splits_is_of_neither() -> None:
    assert split_of("train_and_test") == "test+train"


LAYOUTS = [
    (kind, position, case, words, extra)
    for (kind, position), (case, (words, extra)) in itertools.product(
        [
            ("folders", "{}"),
            ("folders", "seg_{}"),
            ("tars", "x-{}-000"),
            ("parquet", "{}-0"),
            ("inside", "{}_set"),
        ],
        zip(
            (str.lower, str.title, str.upper, str.lower, str.title, str.lower),
            (
                (("train", "val"), None),
                (("training", "testing"), None),
                (("train", "test"), "annotations"),
                (("train", "dev"), "unlabeled"),
                (("training", "evaluation"), "__MACOSX"),
                (("train", "validation", "test"), "notes"),
            ),
            strict=True,
        ),
    )
]


def _write_layout(root: Path, kind: str, names: list[str], extra: str | None) -> None:
    for number, name in enumerate(names):
        keys = {f"{name}{i}".replace(" ", ""): b"%d" % (i % 2) for i in range(2 + number)}
        if kind == "folders":
            write_files(root / name, [f"{'ab'[i % 2]}/{key}.jpg" for i, key in enumerate(keys)])
        elif kind == "parquet":
            labels = [int(label) for label in keys.values()]
            write_parquet(root / f"{name}.parquet", {"image": images_column(len(keys)), "label": labels})
        else:
            folder = root / name if kind == "inside" else root
            tar_of(folder / f"{'shard-0' if kind == 'inside' else name}.tar", keys)
    if extra and kind in ("folders", "inside"):
        write_files(root / extra, {"readme.txt": b"x"})
    elif extra:
        write_files(root, {f"{extra}.txt": b"x"})


@pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda layout: f"{layout[0]}-{layout[1]}-{layout[3][1]}-{layout[4]}"
)
def test_a_layout_gives_the_split_asked_for_or_a_refusal_that_lists_what_is_there(
    layout: tuple, tmp_path: Path
) -> None:
    kind, position, case, words, extra = layout
    names = [case(position.format(word)) for word in words]
    _write_layout(tmp_path / "in", kind, names, extra)
    with pytest.raises(DatasetError) as refused:
        pack_to(tmp_path / "in", tmp_path / "mixed")
    assert all(name in str(refused.value) for name in names)
    assert "--split train" in str(refused.value)
    for number, word in enumerate(words):
        pack_to(tmp_path / "in", tmp_path / f"out{number}", SourceOptions(split=word))
        found = labels_of(tmp_path / f"out{number}")
        assert len(found) == 2 + number
        assert set(found.values()) == ({"a", "b"} if kind == "folders" else {"0", "1"})
        if kind != "parquet":
            assert all(names[number].replace(" ", "") in key for key in found)
    with pytest.raises(DatasetError, match="no split 'holdout'"):
        pack_to(tmp_path / "in", tmp_path / "none", SourceOptions(split="holdout"))


def test_thirty_layouts_are_tried() -> None:
    assert len(LAYOUTS) >= 30


def test_an_explicit_split_is_never_ignored(tmp_path: Path) -> None:
    write_files(tmp_path / "in", ["ant/0.jpg", "bee/0.jpg"])
    tar_of(tmp_path / "tars" / "a.tar", {"x": b"0"})
    for source in (tmp_path / "in", tmp_path / "tars", tmp_path / "tars" / "a.tar"):
        with pytest.raises(DatasetError, match="no split 'train'"):
            pack_to(source, tmp_path / "out", SourceOptions(split="train"))


def test_a_packed_dataset_has_no_split(tmp_path: Path) -> None:
    tar_of(tmp_path / "in.tar", {"x": b"0"})
    pack_to(tmp_path / "in.tar", tmp_path / "packed")
    with pytest.raises(DatasetError, match="is a packed dataset, which has no splits"):
        pack_to(tmp_path / "packed", tmp_path / "out", SourceOptions(split="train"))


def test_words_of_one_split_side_by_side_must_be_told_apart(tmp_path: Path) -> None:
    for name in ("val", "dev", "test", "test-fruits"):
        write_files(tmp_path / name, ["a/0.jpg", "b/1.jpg"])
    with pytest.raises(DatasetError, match=r"could be one split or several: dev, val(.|\n)*--split dev"):
        pack_to(tmp_path, tmp_path / "out", SourceOptions(split="validation"))
    write_files(tmp_path / "val", ["a/1.jpg"])
    pack_to(tmp_path, tmp_path / "out-val", SourceOptions(split="val"))
    assert len(labels_of(tmp_path / "out-val")) == 3
    pack_to(tmp_path, tmp_path / "out-test", SourceOptions(split="test"))
    assert len(labels_of(tmp_path / "out-test")) == 2


def test_one_split_alone_is_taken_and_said(tmp_path: Path) -> None:
    from teacher_cache.dataset.sources.open import open_source

    write_files(tmp_path / "data" / "Training", ["a/0.jpg", "b/1.jpg"])
    source = open_source(str(tmp_path))
    assert source.classes == ["a", "b"]
    assert any("Training" in note for note in source.notes)


def test_classes_named_like_splits_are_taken_on_request(tmp_path: Path) -> None:
    write_files(tmp_path, ["car/0.jpg", "bullet_train/1.jpg"])
    with pytest.raises(DatasetError, match=r"bullet_train, car(.|\n)*--no-splits"):
        pack_to(tmp_path, tmp_path / "out")
    info = pack_to(tmp_path, tmp_path.with_name("classes"), SourceOptions(splits=False))
    assert info.classes == ("bullet_train", "car")


def test_files_of_two_kinds_or_beside_splits_are_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", {"x": b"0"})
    write_parquet(tmp_path / "y.parquet", {"image": IMAGES[:1], "label": [0]})
    with pytest.raises(DatasetError, match="1 parquet or Arrow files, 1 tars"):
        pack_to(tmp_path, tmp_path / "out")
    (tmp_path / "y.parquet").unlink()
    write_files(tmp_path / "train", ["a/0.jpg"])
    with pytest.raises(DatasetError, match="1 tars and the folders train"):
        pack_to(tmp_path, tmp_path / "out")


def test_a_set_with_missing_parts_is_refused(tmp_path: Path) -> None:
    for number in (0, 2):
        write_parquet(
            tmp_path / f"train-{number:05d}-of-00003.parquet", {"image": IMAGES[:2], "label": [0, 1]}
        )
        tar_of(tmp_path / "tars" / f"{number}_of_3.tar", {f"k{number}": b"0"})
    with pytest.raises(DatasetError, match=r"2 of the 3 files train-...-of-3: 1 missing"):
        pack_to(tmp_path, tmp_path / "out")
    with pytest.raises(DatasetError, match=r"2 of the 3 files ...-of-3: 1 missing"):
        pack_to(tmp_path / "tars", tmp_path / "out")
    for number in (1, 3):
        tar_of(tmp_path / "tars" / f"{number}_of_3.tar", {f"k{number}": b"0"})
    (tmp_path / "tars" / "0_of_3.tar").unlink()
    pack_to(tmp_path / "tars", tmp_path / "out")
    assert len(labels_of(tmp_path / "out")) == 3


def test_numbered_files_are_chosen_by_their_whole_name(tmp_path: Path) -> None:
    for name in ("train-000", "train-001", "train_blurred-000", "train_blurred-001"):
        tar_of(tmp_path / f"{name}.tar", {name: b"0"})
    chosen = open_source(str(tmp_path), SourceOptions(split="train_blurred"))
    assert chosen.keys == ["train_blurred-000", "train_blurred-001"]
    plain = open_source(str(tmp_path), SourceOptions(split="train"))
    assert plain.keys == ["train-000", "train-001"]
    assert "2 of 4 files are of split train" in plain.notes


def test_files_of_a_split_beside_more_of_it_are_refused_or_chosen_by_name(tmp_path: Path) -> None:
    for name in ("train", "train_extra"):
        columns = {"image": IMAGES[:1], "label": [0]}
        write_parquet(tmp_path / f"{name}-00000-of-00001.parquet", columns)
    with pytest.raises(DatasetError, match=r"one split or several(.|\n)*--split train"):
        open_source(str(tmp_path))
    for name in ("train", "train_extra"):
        chosen = open_source(str(tmp_path), SourceOptions(split=name))
        assert chosen.keys == [f"{name}-00000-of-00001-00000000"]
