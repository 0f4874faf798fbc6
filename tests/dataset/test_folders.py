"""Class folders as people have them: content tells an image, and nothing is left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import IMAGES, PNG, images_of, labels_of, pack_to, write_files
from PIL import Image
from support import encoded, picture

from teacher_cache.dataset.index import read_info
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import BROKEN_LINK, HIDDEN, NO_CLASS, NO_IMAGE, SourceOptions
from teacher_cache.errors import DatasetError
from teacher_cache.images import FRAMES, ORIENTATION
from teacher_cache.storage.store import Store

NAMES = ["a.jfif", "b.jpe", "noext", "d.jpg_large", "e.jpg.1", "f.txt"]


def test_content_tells_an_image(tmp_path: Path) -> None:
    files = {f"ant/{name}": IMAGES[number] for number, name in enumerate(NAMES)}
    write_files(tmp_path / "in", {**files, "bee/0.jpg": PNG, "bee/notes.jpg.txt": b"none"})
    pack_to(tmp_path / "in", tmp_path / "out")
    keys = ("ant/a", "ant/b", "ant/noext", "ant/d", "ant/e%2Ejpg", "ant/f")
    assert images_of(tmp_path / "out") == {**dict(zip(keys, IMAGES, strict=False)), "bee/0": PNG}


def test_what_is_left_out_is_counted_listed_and_kept(tmp_path: Path) -> None:
    write_files(
        tmp_path / "in",
        {
            "ant/0.jpg": IMAGES[0],
            "bee/0.jpg": IMAGES[1],
            "ant/._0.jpg": b"\0\5\x16\7",
            "ant/.ipynb_checkpoints/0.jpg": IMAGES[2],
            "bee/@eaDir/0.jpg": IMAGES[3],
            "__MACOSX/ant/._0.jpg": b"\0\5\x16\7",
            "ant/Thumbs.db": b"x",
            "bee/boxes.txt": b"x",
            "loose.jpg": IMAGES[4],
        },
    )
    (tmp_path / "in" / "ant" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = open_source(str(tmp_path / "in"))
    assert source.classes == ["ant", "bee"]
    assert source.keys == ["ant/0", "bee/0"]
    counts = {HIDDEN: 5, NO_IMAGE: 1, NO_CLASS: 1, BROKEN_LINK: 1}
    assert {reason: source.left_out.count(reason) for reason in counts} == counts
    pack_to(tmp_path / "in", tmp_path / "out")
    listed = read_info(Store(tmp_path / "out")).source["left_out"]
    assert {entry["reason"]: entry["count"] for entry in listed} == counts
    assert [entry["names"] for entry in listed if entry["reason"] == NO_CLASS] == [["loose.jpg"]]


def test_frames_and_orientation_are_counted_and_listed_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    turned, pictures = encoded(picture(1, 20, 24), "JPEG", exif=exif), [picture(2, 20, 24)]
    moving = encoded(picture(1, 20, 24), "WEBP", save_all=True, append_images=pictures)
    files = {"ant/0.jpg": turned, "ant/1.webp": moving, "bee/0.jpg": IMAGES[0], "bee/1.webp": moving}
    write_files(tmp_path / "in", files)
    wanted = {FRAMES: ["ant/1", "bee/1"], ORIENTATION: ["ant/0"]}
    for number, options in enumerate(({}, {"shard_size": 1})):
        out = tmp_path / f"out{number}"
        listed = pack_to(tmp_path / "in", out, **options).source["left_out"]
        assert {entry["reason"]: sorted(entry["names"]) for entry in listed} == wanted
        assert {entry["reason"]: entry["count"] for entry in listed} == {FRAMES: 2, ORIENTATION: 1}
    again = pack_to(tmp_path / "out0", tmp_path / "again", shuffle=False).source["left_out"]
    assert {entry["reason"]: sorted(entry["names"]) for entry in again} == wanted


def test_links_are_followed_and_circles_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "store", ["ant/0.jpg", "ant2/1.jpg", "bee/2.jpg"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ant").symlink_to(tmp_path / "store" / "ant")
    (tmp_path / "in" / "bee").symlink_to(tmp_path / "store" / "bee")
    (tmp_path / "store" / "ant" / "more").symlink_to(tmp_path / "store" / "ant2")
    assert open_source(str(tmp_path / "in")).keys == ["ant/0", "ant/more/1", "bee/2"]
    (tmp_path / "store" / "ant" / "again").symlink_to(tmp_path / "store" / "ant")
    with pytest.raises(DatasetError, match="again is a link to a folder above it"):
        open_source(str(tmp_path / "in"))


def test_images_of_formats_that_are_not_read_are_refused_with_their_number(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"ant/0.jpg": IMAGES[0], "bee/0.jpg": b"GIF89a", "bee/1": b"BM00", "bee/2.png": PNG}
    )
    with pytest.raises(DatasetError, match=r"bee/0.jpg is GIF.*in all 1 GIF, 1 BMP"):
        open_source(str(tmp_path))


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {"ant/0.jpg": IMAGES[0], "bee/0.jpg": IMAGES[1][:-300], "bee/.x": b""})
    (tmp_path / "in" / "cow").mkdir()
    with pytest.raises(DatasetError, match="class folders without an image: cow"):
        open_source(str(tmp_path / "in"))
    (tmp_path / "in" / "cow").rmdir()
    with pytest.raises(DatasetError, match="no image of class bee can be decoded"):
        pack_to(tmp_path / "in", tmp_path / "out", skip_corrupt=True)
    assert not any((tmp_path / "out").iterdir())


def test_images_in_one_folder_are_no_class(tmp_path: Path) -> None:
    write_files(tmp_path / "val", ["images/0.jpg", "images/1.jpg"])
    with pytest.raises(DatasetError, match=r"in one folder, 'images'(.|\n)*--unlabelled(.|\n)*--classes"):
        open_source(str(tmp_path / "val"))
    pack_to(tmp_path / "val", tmp_path / "out", SourceOptions(unlabelled=True))
    assert labels_of(tmp_path / "out") == {"images/0": None, "images/1": None}


def test_a_folder_of_images_is_without_labels(tmp_path: Path) -> None:
    write_files(tmp_path / "in", ["0.jpg", "1.jpg"])
    info = pack_to(tmp_path / "in", tmp_path / "out")
    assert (info.classes, labels_of(tmp_path / "out")) == ((), {"0": None, "1": None})


def test_files_with_one_stem_keep_their_suffixes(tmp_path: Path) -> None:
    write_files(
        tmp_path / "in", {"ant/1.jpg": IMAGES[0], "ant/1.png": PNG, "ant/2.png": PNG, "bee/1.jpg": IMAGES[1]}
    )
    pack_to(tmp_path / "in", tmp_path / "out")
    expected = {"ant/1%2Ejpg": IMAGES[0], "ant/1%2Epng": PNG, "ant/2": PNG, "bee/1": IMAGES[1]}
    assert images_of(tmp_path / "out") == expected
