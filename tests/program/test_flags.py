"""Paths in flags mean the same in any working folder: one, several, and those in a teacher's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import pytest

from teacher_cache.program.flags import PATH, TEACHER, Flags, with_absolute_paths


@dataclasses.dataclass(frozen=True)
class Places(Flags):
    """Do something somewhere."""

    one: Annotated[str | None, PATH] = None
    several: Annotated[tuple[str, ...], PATH] = ()
    teacher: Annotated[str | None, TEACHER] = None


def test_paths_are_made_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = with_absolute_paths(Places(one="a/b", several=("c", "s3://d/e", "~/f", "/g")))
    assert found == Places(one=f"{tmp_path}/a/b", several=(f"{tmp_path}/c", "s3://d/e", "~/f", "/g"))
    assert with_absolute_paths(Places()) == Places()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:model", "hf:{here}/model"),
        ("clip:local-dir:model", "clip:local-dir:{here}/model"),
        ("local-dir:./model", "local-dir:{here}/model"),
        ("hf:owner/model", "hf:owner/model"),
        ("python:package.model:model", "python:package.model:model"),
        ("model", "model"),
    ],
)
def test_a_folder_in_a_teachers_name_is_made_absolute(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert with_absolute_paths(Places(teacher=name)).teacher == expected.format(here=tmp_path)
