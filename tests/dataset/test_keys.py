"""Keys: any file name, reversibly."""

from __future__ import annotations

import os
from pathlib import Path

import webdataset
from hypothesis import given
from hypothesis import strategies as st
from layouts import IMAGES, images_of, pack_to, write_files

from teacher_cache.dataset.sources.source import KEY, META, key_of, name_of

_names = (
    st.binary(min_size=1)
    .filter(lambda name: b"\0" not in name and not name.startswith(b"/"))
    .map(os.fsdecode)
)


@given(_names)
def test_a_key_leads_back_to_its_name(name: str) -> None:
    key = key_of(name)
    assert KEY.fullmatch(key)
    assert not META.match(key)
    assert name_of(key) == name


@given(st.from_regex(r"[A-Za-z0-9-][A-Za-z0-9_/-]*", fullmatch=True))
def test_a_plain_name_stays(name: str) -> None:
    assert key_of(name) == name


def test_names_of_any_script_are_packed_and_read_by_plain_webdataset(tmp_path: Path) -> None:
    names = ["猫/0", "犬/0", "my cats/my cat (1)", "my cats/my_cat", "my cats/100%", "é/a.b", "__x__/0"]
    write_files(tmp_path / "in", {f"{name}.jpg": IMAGES[number] for number, name in enumerate(names)})
    info = pack_to(tmp_path / "in", tmp_path / "out")
    assert set(info.classes) == {"猫", "犬", "my cats", "é", "__x__"}
    found = {name_of(key): image for key, image in images_of(tmp_path / "out").items()}
    assert found == dict(zip(names, IMAGES, strict=False))
    samples = webdataset.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False)
    assert {name_of(sample["__key__"]): sample["jpg"] for sample in samples} == found
