"""The public face: which names there are, what they promise, and that importing them is light."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import IMG_SIZE, SHARD_SIZE

import teacher_cache
from examples.own_trainer import train
from teacher_cache import LabelledViews, PackedDataset, open_labels
from teacher_cache.batches.batch import ViewBatch
from teacher_cache.errors import InputError

PUBLIC = {
    *(
        "Client",
        "LabelledViews",
        "Labels",
        "PackedDataset",
        "Recipe",
        "TeacherCacheError",
        "TeacherModel",
        "ViewBatch",
        "__version__",
    ),
    *("LabelledDataModule", "StoredDistillationTask", "TimmLoader", "TrainerLoader"),
    *("hard_loss", "labels_artifact", "load_recipe", "open_labels", "render", "soft_loss"),
}


def test_the_public_names_are_pinned() -> None:
    assert set(teacher_cache.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(teacher_cache, name) is not None
        assert name in dir(teacher_cache)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        teacher_cache.nothing_of_ours  # noqa: B018


def test_importing_is_light() -> None:
    program = "import sys, json, teacher_cache; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(printed.stdout)}
    assert not loaded & {"torch", "timm", "numpy", "numba", "zarr", "ray", "pyarrow"}


def test_the_package_is_typed() -> None:
    assert (Path(teacher_cache.__file__).parent / "py.typed").exists()


def seen(batches: list[ViewBatch]) -> list[tuple[int, int]]:
    return [pair for b in batches for pair in zip(b.rows_B.tolist(), b.views_B.tolist(), strict=True)]


def test_every_epoch_sees_every_sample_once_in_the_next_view(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=5, drop_last=False)
    for epoch in (0, 1, 2, 3):
        batches = list(views.epoch(epoch))
        assert len(batches) == len(views) == 7
        assert sorted(seen(batches)) == [(row, epoch % 3) for row in range(33)]
        for batch in batches:
            assert batch.labels is not None
            expected = open_labels(labels).lookup(batch.rows_B.numpy(), batch.views_B.numpy())
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch.labels, expected, strict=True))


@pytest.mark.slow
def test_a_state_continues_at_the_next_batch(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=5)
    whole = [seen([batch]) for epoch in range(3) for batch in views.epoch(epoch)]
    for stopped_after in (0, 1, 6, 7, 17):
        first = LabelledViews(data, labels=labels, batch_size=5)
        batches = (batch for epoch in range(3) for batch in first.epoch(epoch))
        before = [seen([next(batches)]) for _ in range(stopped_after)]
        state = json.loads(json.dumps(first.state_dict()))
        second = LabelledViews(data, labels=labels, batch_size=5)
        second.load_state_dict(state)
        after = [seen([b]) for epoch in range(second.next_epoch, 3) for b in second.epoch(epoch, workers=1)]
        assert before + after == whole


def test_another_batch_size_goes_on_at_the_same_sample(data: str, labels: str) -> None:
    whole = LabelledViews(data, labels=labels, batch_size=3)
    first = LabelledViews(data, labels=labels, batch_size=3)
    batches = first.epoch(0)
    before = seen([next(batches) for _ in range(4)])
    second = LabelledViews(data, labels=labels, batch_size=4)
    second.load_state_dict(first.state_dict())
    assert before + seen(list(second.epoch(second.next_epoch))) == seen(list(whole.epoch(0)))[:32]
    third = LabelledViews(data, labels=labels, batch_size=5)
    with pytest.raises(InputError, match="12 samples into epoch 0"):
        third.load_state_dict(first.state_dict())


def test_an_epoch_that_was_left_early_begins_anew(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=5)
    next(views.epoch(0))
    assert len(list(views.epoch(0))) == len(views)
    assert len(list(views.epoch(1))) == len(views)
    assert views.next_epoch == 2


def test_processes_share_each_batch(data: str, labels: str) -> None:
    alone = LabelledViews(data, labels=labels, batch_size=6)
    shares = [LabelledViews(data, labels=labels, batch_size=3, rank=r, world_size=2) for r in (0, 1)]
    for whole, *parts in zip(alone.epoch(0), *(share.epoch(0) for share in shares), strict=True):
        assert seen([whole]) == seen(parts)


def test_it_works_without_labels(data: str) -> None:
    views = LabelledViews(data, batch_size=8, recipe="rrc", img_size=IMG_SIZE)
    assert views.affinity is None
    batches = [batch for epoch in (0, 1) for batch in views.epoch(epoch)]
    assert {view for _, view in seen(batches)} == {0, 1}
    assert all(batch.labels is None for batch in batches)
    assert batches[0].inputs("cpu").shape == (8, 3, IMG_SIZE, IMG_SIZE)


def test_an_open_dataset_and_archive_are_taken_as_they_are(data: str, labels: str) -> None:
    views = LabelledViews(PackedDataset(data), open_labels(labels), batch_size=SHARD_SIZE, views=[2])
    assert {view for _, view in seen(list(views.epoch(5)))} == {2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "rrc"}, "The archive brings the recipe"),
        ({"rank": 1}, "Both or neither"),
        ({"views": [7]}, "holds views 0:3, not 7:8"),
        ({"batch_size": 64}, "An epoch would have no batch"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(changes: dict, message: str, data: str, labels: str) -> None:
    with pytest.raises(InputError, match=message):
        LabelledViews(data, labels=labels, **{"batch_size": 4, **changes})


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_processes_that_have_not_met_are_refused(
    name: str, data: str, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = LabelledViews(data, labels=labels, batch_size=4)
    monkeypatch.setenv(name, "1")
    assert len(views) == 8
    monkeypatch.setenv(name, "2")
    for ask in (lambda: len(views), lambda: next(views.epoch(0)), views.state_dict):
        with pytest.raises(InputError, match="Every process would see every sample"):
            ask()


@pytest.mark.slow
def test_the_example_trains(data: str, labels: str) -> None:
    losses = train(data, labels, epochs=3, batch_size=16, workers=0)
    assert len(losses) == 6
    assert sum(losses[3:]) < sum(losses[:3])


def test_the_wheel_has_every_file_of_the_packages_but_the_demo() -> None:
    """By setup.cfg alone: folders with __init__.py are packages, and other files must be named as data."""
    root = Path(__file__).parents[1]
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    data = {name: value.replace(",", " ").split() for name, value in config["options.package_data"].items()}
    packed = set()
    for top in ("teacher_cache", "student", "pipelines"):
        for init in (root / top).rglob("__init__.py"):
            package = ".".join(init.parent.relative_to(root).parts)
            packed |= set(init.parent.glob("*.py"))
            packed |= {file for pattern in data.get(package, ()) for file in init.parent.glob(pattern)}
    git = ["git", "-C", str(root), "ls-files", "teacher_cache", "student", "pipelines"]
    tracked = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split()
    left_out = {name for name in tracked if root / name not in packed and not name.endswith("README.md")}
    assert {name for name in left_out if not name.startswith("pipelines/demo/")} == set()
    assert "pipelines.demo*" in config["options.packages.find"]["exclude"]
