"""Secrets in URLs: in no message, no output and no file of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gates import gate
from hypothesis import given
from hypothesis import strategies as st
from support import built_teacher

from pipelines.cli import main
from student.cli import main as student_main
from teacher_cache.dataset.packing.in_place import index_in_place
from teacher_cache.dataset.packing.pack import PackOptions
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError, InputError, ModelError, masked
from teacher_cache.labels.class_list import ClassList
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://bob:hunter2@host:80/a", "http://bob:***@host:80/a"),
        (
            "postgresql+psycopg://u:p%40ss@db/x and s3://:key@b",
            "postgresql+psycopg://u:***@db/x and s3://:***@b",
        ),
        ("https://h/a?X-Amz-Signature=ab%2F&X-Amz-Date=7", "https://h/a?X-Amz-Signature=***&X-Amz-Date=7"),
        ("https://h/a?sv=1&sig=x%3D#b", "https://h/a?sv=1&sig=***#b"),
        ('{"a":"s3://b","c":"d:e@f"}', '{"a":"s3://b","c":"d:e@f"}'),
        ("http://host:8080/a@b:c", "http://host:8080/a@b:c"),
        ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
        ('{"a": "https://h/x?token=y\\"z"}', '{"a": "https://h/x?token=***\\"z"}'),
        ("hf://datasets/me/x@main", "hf://datasets/me/x@main"),
        ("no URL: a?key=5, b:c@d", "no URL: a?key=5, b:c@d"),
    ],
)
def test_what_is_masked_and_what_is_not(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


SECRET = st.text(st.characters(categories=["L", "N"]), min_size=8, max_size=20)


@given(SECRET, st.just("bob"), st.sampled_from(["http", "s3", "postgresql+psycopg", "memory"]))
def test_no_error_holds_a_password(secret: str, user: str, scheme: str) -> None:
    for url in (f"{scheme}://{user}:{secret}@h/p", f"https://h/p?x=1&token={secret}"):
        error = InputError(f"{url} is wrong", f"so {url}", f"or {url}")
        assert secret not in str(error) + repr(error) + error.value + error.consequence + error.remedy


def test_a_password_in_a_url_of_labels_is_nowhere_after_a_run(
    data: str, labels: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with gate(Path(labels).parent) as server:
        url = f"http://bob:hunter2@127.0.0.1:{server.server_port}/{Path(labels).name}"
        assert main(["pull", f"{url}-not-there", str(tmp_path / "none")]) == 2
        assert main(["verify", url]) == 0
        assert main(["pull", url, str(tmp_path / "copy")]) == 0
        flags = ["--model=test_vit", "--distillation=hard", "--epochs=1", "--batch-size=8"]
        places = [f"--output={tmp_path / 'run'}", f"--cache-dir={tmp_path / 'cache'}"]
        train = ["train", f"--data={data}", f"--labels={url}", *flags, *places]
        assert student_main(train) == 0
        assert student_main([*train, "--resume=auto"]) == 0
        assert student_main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")]) == 0
    found = capfd.readouterr()
    assert "hunter2" not in found.out + found.err
    assert "bob:***@" in found.err
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert not holding
    assert json.loads((tmp_path / "run" / "config.json").read_text())["labels"][0].startswith(
        "http://bob:***@"
    )


def test_a_dataset_in_place_keeps_no_password(tmp_path: Path) -> None:
    source, destination = Store("memory://bob:hunter2@x/y"), Store(tmp_path / "out")
    source.put("a.tar", b"")
    with pytest.raises(DatasetError, match=r"memory://bob:\*\*\*@x/y, a URL with a password"):
        index_in_place(source, ["a.tar"], destination, SourceOptions(), PackOptions(), silent)
    assert not destination.list()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pretrained_cfg_overlay": {"file": "/home/me/w.pt"}},
        {"checkpoint_path": "~/w.pt"},
        {"cache_dir": "https://a:b@h/x"},
    ],
)
def test_arguments_of_a_model_that_name_a_place_are_refused(kwargs: dict) -> None:
    with pytest.raises(ModelError, match=r"names a place on this machine(.|\n)*--checkpoint"):
        built_teacher(
            "test_resnet",
            classes=ClassList(("ant", "bee", "cat")),
            img_size=32,
            pretrained=False,
            model_kwargs=kwargs,
        )
