"""Tars as people have them: members by name and case, labels in other members, ends, hidden members."""

from __future__ import annotations

import gzip
import resource
import tarfile
from pathlib import Path

import pytest
from layouts import IMAGES, PNG, images_of, labels_of, pack_to, tar_of, write_files, write_tar

from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError


def test_members_are_read_as_tar_writes_them(tmp_path: Path) -> None:
    members = {
        "./my cat.JPEG": IMAGES[0],
        "./my cat.CLS": b"1\n",
        "./._my cat.JPEG": b"\0\5\x16\7",
        "./.DS_Store": b"x",
        "./猫.jpg": IMAGES[1],
        "./猫.cls": b"0",
        "./README": b"x",
    }
    source = open_source(str(write_tar(tmp_path / "a.tar", members)))
    assert source.keys == ["my%20cat", "%E7%8C%AB"]
    assert (source.classes, source.labels) == (["0", "1"], [1, 0])
    assert len(source.left_out) == 3
    pack_to(tmp_path / "a.tar", tmp_path / "out")
    assert images_of(tmp_path / "out") == {"my%20cat": IMAGES[0], "%E7%8C%AB": IMAGES[1]}


@pytest.mark.parametrize(
    ("label_key", "extension", "contents", "classes"),
    [
        ("json:label", "json", [b'{"label": 1, "x": 0}', b'{"label": 0}'], ["1", "0"]),
        ("json:y", "meta.json", None, None),
        ("JSON:name", "json", [b'{"name": "cat"}', b'{"name": "ant"}'], ["cat", "ant"]),
        ("txt", "txt", [b"a fish\n", b"a cat"], ["a fish", "a cat"]),
        ("output.cls", "output.cls", [b"1", b"0"], ["1", "0"]),
        ("cls", "cls", [b"dog", b"cat"], ["dog", "cat"]),
    ],
)
def test_labels_are_read_from_the_member_asked_for(
    label_key: str, extension: str, contents: list[bytes] | None, classes: list[str] | None, tmp_path: Path
) -> None:
    members = []
    for number, text in enumerate(contents or [b'{"y": 0}', b'{"y": 1}']):
        members += [(f"{number}.input.jpg", IMAGES[number]), (f"{number}.{extension}", text)]
    file = write_tar(tmp_path / "a.tar", members)
    options = SourceOptions(image_key="input.jpg", label_key=label_key)
    if classes is None:
        with pytest.raises(DatasetError, match="but no json"):
            open_source(str(file), options)
        return
    pack_to(file, tmp_path / "out", options)
    assert labels_of(tmp_path / "out") == dict(zip("01", classes, strict=True))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../a.jpg": IMAGES[0], "../a.cls": b"0"}, r"member '../a.jpg'"),
        ({"/etc/a.jpg": IMAGES[0], "/etc/a.cls": b"0"}, r"member '/etc/a.jpg'"),
        ({"a.cls": b"0"}, "sample 'a' .* has members cls"),
        ({"a.jpg": IMAGES[0], "a.png": PNG, "a.cls": b"0"}, r"2 images(.|\n)*--image-key"),
        ({"a.jpg": IMAGES[0], "a.json": b"{}"}, r"jpg, json, but no cls(.|\n)*--label-key"),
        ({"n1/a.jpg": IMAGES[0], "n2/b.jpg": IMAGES[1]}, r"folder may be its class(.|\n)*--unlabelled"),
        ({"a.jpg": IMAGES[0], "a.cls": b"0", "b.jpg": IMAGES[1]}, r"'b' .* has no label"),
        ({"a.jpg": IMAGES[0], "a.cls": b"-1"}, "has label -1"),
        ({"a.jpg": IMAGES[0], "a.cls": b" "}, "has an empty cls"),
        ({"a.jpg": IMAGES[0], "a.cls": b"\xff\xfe"}, "has cls"),
        ({"n1.tar": b"x"}, "tars in a tar: unpack it first"),
        ({"a.jpg": IMAGES[0], "a.JPG": IMAGES[1], "a.cls": b"0"}, "differ in case alone"),
    ],
)
def test_a_tar_whose_samples_are_not_certain_is_refused(
    members: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        open_source(str(write_tar(tmp_path / "a.tar", members)))


@pytest.mark.parametrize("value", [b"[1]", b'{"name": "x"}', b'{"label": [1]}', b'{"label": null}', b"{"])
def test_a_field_that_holds_no_label_is_refused(value: bytes, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", {"a.jpg": IMAGES[0], "a.json": value})
    with pytest.raises(DatasetError, match=r"has json(.|\n)*--label-key json:FIELD"):
        open_source(str(file), SourceOptions(label_key="json:label"))


def test_a_member_twice_and_links_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "twice.tar", [("a.jpg", b"x"), ("a.jpg", b"x")])
    with pytest.raises(DatasetError, match="'a.jpg' is twice"):
        open_source(str(tmp_path / "twice.tar"))
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DatasetError, match="Only regular files"):
        open_source(str(tmp_path / "link.tar"))


def test_a_tar_without_an_end_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "whole.tar", {f"k{number}": b"0" for number in range(3)}).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in [*range(0, end, 512), *range(100, end, 700)]:
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(DatasetError, match="cut.tar"):
            open_source(str(tmp_path / "cut.tar"))
    damaged = bytearray(whole)
    damaged[whole.index(b"k1.jpg") + 148] ^= 1  # the checksum of a header in the middle
    (tmp_path / "damaged.tar").write_bytes(damaged)
    with pytest.raises(DatasetError, match="damaged.tar"):
        open_source(str(tmp_path / "damaged.tar"))


def test_compressed_tars_are_packed(tmp_path: Path) -> None:
    plain = tar_of(tmp_path / "plain" / "a.tar", {"x": b"0", "y": b"1"})
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "a.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert pack_to(tmp_path / "gz", tmp_path / "out") == pack_to(tmp_path / "plain", tmp_path / "out2")
    (tmp_path / "gz" / "a.tar.gz").write_bytes(gzip.compress(plain.read_bytes())[:-900])
    with pytest.raises(DatasetError, match="a.tar.gz cannot be read"):
        open_source(str(tmp_path / "gz"))


def test_keys_numbered_anew_in_each_tar_get_the_tars_name(tmp_path: Path) -> None:
    for number in range(2):
        tar_of(tmp_path / "in" / f"wds-{number}.tar", {"000": b"0", "001": b"%d" % number})
    source = open_source(str(tmp_path / "in"))
    assert source.keys == ["wds-0/000", "wds-0/001", "wds-1/000", "wds-1/001"]
    assert any("sample keys repeat across tars" in note for note in source.notes)


def test_more_tars_than_open_files(tmp_path: Path) -> None:
    for number in range(70):
        tar_of(tmp_path / f"{number:03d}.tar", {f"k{number}": b"0"})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, limits[1]))
    try:
        pack_to(tmp_path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(labels_of(tmp_path / "out")) == 70


def test_a_packed_dataset_is_packed_again_with_its_keys_and_names(tmp_path: Path) -> None:
    tar_of(tmp_path / "a b.tar", {"my cat": b"1", "x": b"0"})
    first = pack_to(tmp_path / "a b.tar", tmp_path / "first", SourceOptions(classes=["ant", "bee"]))
    again = pack_to(tmp_path / "first", tmp_path / "again")
    assert labels_of(tmp_path / "again") == labels_of(tmp_path / "first") == {"my%20cat": "bee", "x": "ant"}
    assert again.classes == first.classes


@pytest.mark.parametrize(
    "options",
    [
        SourceOptions(image_column="image"),
        SourceOptions(label_column="label"),
        SourceOptions(image_key="jpg"),
        SourceOptions(label_key="cls"),
    ],
)
def test_a_choice_that_names_nothing_of_the_source_is_refused(options: SourceOptions, tmp_path: Path) -> None:
    write_files(tmp_path / "folders", ["a/0.jpg", "b/0.jpg"])
    tar_of(tmp_path / "in.tar", {"x": b"0"})
    is_of_tars = bool(options.image_key or options.label_key)
    for source, fits in (("folders", False), ("in.tar", is_of_tars)):
        if fits:
            assert open_source(str(tmp_path / source), options).keys == ["x"]
        else:
            with pytest.raises(DatasetError, match="The flag cannot select anything in this source"):
                open_source(str(tmp_path / source), options)


def test_tars_without_labels_are_said_to_be(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.jpg": IMAGES[0], "y.jpg": IMAGES[1]})
    source = open_source(str(tmp_path / "a.tar"))
    assert (source.classes, source.labels) == ([], [None, None])
    assert source.notes == ["no sample has a label: the images are without labels"]
