"""What teacher and student see: the same mixed views, whatever the batch, the order or the ranks."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import IMG_SIZE, SHARD_SIZE, write_class_folders

from pipelines.cli import main
from teacher_cache.batches.batch import ViewBatch, view_batch
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.labelling.unit import unit_loads
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.stream import ViewStream
from teacher_cache.views.mixing import Mixing
from teacher_cache.views.recipe import Recipe, deit, deit3
from teacher_cache.views.recipe_ops import MixupCutmix

VIEWS = range(4)
Pixels = dict[tuple[int, int], str]


def pixels_of(batches: list[ViewBatch]) -> Pixels:
    """Return the digest of each (row, view)'s finished pixels; a view seen twice must be the same."""
    found: Pixels = {}
    for batch in batches:
        pairs = zip(batch.rows_B.tolist(), batch.views_B.tolist(), strict=True)
        for pair, pixels in zip(pairs, batch.pixels("cpu"), strict=True):
            digest = sha256_hex(pixels.numpy().tobytes())
            assert found.setdefault(pair, digest) == digest
    return found


def extracted(dataset: PackedDataset, recipe: Recipe, batch_size: int) -> Pixels:
    """Return what the teacher sees of all views of all shards."""
    renderer = BatchRenderer(dataset, recipe)
    batches = []
    for shard in range(len(dataset.info.shards)):
        for load in unit_loads(dataset.rows_of(shard), VIEWS, batch_size, renderer.mixing):
            batches += rendered(renderer, load)
    return pixels_of(batches)


def rendered(renderer: BatchRenderer, load: list[ViewIds]) -> list[ViewBatch]:
    return [view_batch(batch) for batch in renderer.render(load)]


def streamed(dataset: PackedDataset, recipe: Recipe, workers: int = 0, **changes: object) -> Pixels:
    """Return what the student sees in as many epochs as there are views."""
    settings = {"batch_size": 8, "seed": 3, "window_shards": 2, "drop_last": True, **changes}
    plan = StreamPlan(len(dataset), SHARD_SIZE, **settings)
    num_batches = len(VIEWS) * plan.batches_per_epoch
    stream = ViewStream(dataset, recipe, plan, ViewSchedule(VIEWS), num_batches=num_batches)
    return pixels_of(list(stream.loader(workers)))


@pytest.fixture(scope="module")
def whole(dataset: PackedDataset) -> Pixels:
    """Return every view's pixels, each rendered alone."""
    renderer = BatchRenderer(dataset, deit(IMG_SIZE))
    entries = [ViewIds(np.array([row]), np.array([view])) for row in range(len(dataset)) for view in VIEWS]
    return pixels_of([batch for one in entries for batch in rendered(renderer, [one])])


@pytest.mark.parametrize("batch_size", [1, 7, 16, 64])
def test_the_teacher_sees_each_view_once_whatever_the_batch_size(
    dataset: PackedDataset, whole: Pixels, batch_size: int
) -> None:
    assert extracted(dataset, deit(IMG_SIZE), batch_size) == whole


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 5},
        {"batch_size": 33},
        {"seed": None},
        {"workers": 3},
        {"views_per_load": 2},
        {"views_per_load": 4, "workers": 2},
        {"views_per_load": 3},
        {"views_per_load": 4, "views_together": True},
        {"rank": 1, "world_size": 3, "batch_size": 4},
    ],
    ids=str,
)
def test_the_student_sees_what_the_teacher_saw(dataset: PackedDataset, whole: Pixels, changes: dict) -> None:
    found = streamed(dataset, deit(IMG_SIZE), **changes)
    assert found
    assert found.items() <= whole.items()


@pytest.mark.slow
def test_teacher_and_student_agree_over_rings_blocks_and_arrangements(tmp_path: Path) -> None:
    """One shard of 66 rows in blocks of 20 and 6, and views on both sides of a new arrangement."""
    write_class_folders(tmp_path / "images", per_class=22)
    assert main(["pack", str(tmp_path / "images"), str(tmp_path / "data"), "--shard-size", "66"]) == 0
    dataset = PackedDataset(str(tmp_path / "data"))
    base = deit(IMG_SIZE)
    recipe = dataclasses.replace(base, ops=(*base.ops[:-1], MixupCutmix(block_rows=20)))
    views, renderer = range(10, 14), BatchRenderer(dataset, recipe)
    alone = [ViewIds(np.array([row]), np.array([view])) for row in range(len(dataset)) for view in views]
    whole = pixels_of([batch for one in alone for batch in rendered(renderer, [one])])
    loads = unit_loads(dataset.rows_of(0), views, 16, renderer.mixing)
    assert pixels_of([batch for load in loads for batch in rendered(renderer, load)]) == whole
    for views_per_load in (1, 2, 4):
        plan = StreamPlan(66, 66, 11, 3, drop_last=True, views_per_load=views_per_load)
        stream = ViewStream(dataset, recipe, plan, ViewSchedule(views), num_batches=24)
        assert pixels_of(list(stream.loader(0))) == whole


def test_a_renderer_is_light_to_send(dataset: PackedDataset) -> None:
    sent = pickle.dumps(BatchRenderer(dataset, deit(IMG_SIZE)))
    assert len(sent) < 4096
    entries = ViewIds(np.arange(4), np.arange(4))
    (here,), (there,) = (
        rendered(r, [entries]) for r in (BatchRenderer(dataset, deit(IMG_SIZE)), pickle.loads(sent))
    )
    assert torch.equal(here.pixels("cpu"), there.pixels("cpu"))


def test_views_are_mixed_and_erased_at_all(dataset: PackedDataset) -> None:
    renderer = BatchRenderer(dataset, deit(IMG_SIZE))
    (batch,) = rendered(renderer, [ViewIds(np.arange(16), np.zeros(16, np.int64))])
    assert batch.finishing is not None
    assert batch.targets.weight_B is not None
    assert batch.targets.weight_B.lt(1).sum() >= 14
    assert batch.finishing.erase_R4[:, 2].gt(0).any()
    assert batch.targets.partner_B.tolist() == [
        int(dataset.index.labels_N[row])
        for row in renderer.mixing.partners(np.arange(16), 0).tolist()
    ]  # fmt: skip


def test_partners_beyond_the_batch_are_rendered_and_no_more(dataset: PackedDataset) -> None:
    renderer = BatchRenderer(dataset, deit(IMG_SIZE))
    partner = int(renderer.mixing.partners(np.array([3]), 2)[0])
    (alone,) = rendered(renderer, [ViewIds(np.array([3]), np.array([2]))])
    (pair,) = rendered(renderer, [ViewIds(np.array([3, partner]), np.array([2, 2]))])
    assert len(alone.images_RCHW) == len(pair.images_RCHW) == 2
    assert torch.equal(alone.pixels("cpu")[0], pair.pixels("cpu")[0])


def test_buffers_that_workers_use_again_change_no_batch_that_was_handed_over(dataset: PackedDataset) -> None:
    plan = StreamPlan(len(dataset), SHARD_SIZE, 4, seed=5, drop_last=True)
    stream = ViewStream(dataset, deit(IMG_SIZE), plan, ViewSchedule(VIEWS), num_batches=60)
    kept = list(stream.loader(1))
    for batch, expected in zip(kept, stream.loader(0), strict=True):
        assert torch.equal(batch.images_RCHW, expected.images_RCHW)
        assert batch.images_RCHW.stride() == expected.images_RCHW.stride()


def test_a_part_of_a_batch_keeps_its_buffer(dataset: PackedDataset) -> None:
    plan = StreamPlan(len(dataset), SHARD_SIZE, 4, seed=5, drop_last=True)
    stream = ViewStream(dataset, deit(IMG_SIZE), plan, ViewSchedule(VIEWS), num_batches=60)
    kept = [(batch.images_RCHW[1], batch.images_RCHW[2:].numpy()[0, 0]) for batch in stream.loader(1)]
    for (image, channel), expected in zip(kept, stream.loader(0), strict=True):
        assert torch.equal(image, expected.images_RCHW[1])
        assert (channel == expected.images_RCHW[2, 0].numpy()).all()


def test_a_view_wanted_twice_is_given_twice(dataset: PackedDataset) -> None:
    renderer = BatchRenderer(dataset, deit(IMG_SIZE))
    (batch,) = rendered(renderer, [ViewIds(np.array([3, 3]), np.array([2, 2]))])
    pixels = batch.pixels("cpu")
    assert len(pixels) == 2
    assert torch.equal(pixels[0], pixels[1])


class Counted(PackedDataset):
    """A dataset that counts how often an image is read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: list[int] = []

    def image_view(self, row: int) -> memoryview:
        self.reads.append(row)
        return super().image_view(row)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [deit(IMG_SIZE), deit3(IMG_SIZE)], ids=lambda recipe: recipe.name)
def test_an_image_is_decoded_once_for_all_views_of_a_unit(data: str, recipe: Recipe) -> None:
    dataset = Counted(data)
    renderer = BatchRenderer(dataset, recipe)
    for load in unit_loads(range(SHARD_SIZE), VIEWS, 64, renderer.mixing):
        renderer.render(load)
    assert sorted(dataset.reads) == list(range(SHARD_SIZE))


@pytest.mark.parametrize("together", [False, True])
def test_an_image_is_decoded_once_for_all_views_of_a_load(data: str, together: bool) -> None:
    dataset = Counted(data)
    plan = StreamPlan(
        len(dataset), SHARD_SIZE, 32, 3, 2, drop_last=True, views_per_load=4, views_together=together
    )
    stream = ViewStream(dataset, deit(IMG_SIZE), plan, ViewSchedule(VIEWS), num_batches=4)
    seen = [pair for batch in stream.loader(0) for pair in zip(batch.rows_B, batch.views_B, strict=True)]
    assert len({(int(row), int(view)) for row, view in seen}) == 4 * 32
    assert len(dataset.reads) <= 33  # the row that is left over may be a partner


def test_views_of_a_load_are_apart_or_together_as_asked(dataset: PackedDataset) -> None:
    for together, rows_of_batch in ((False, 8), (True, 2)):
        plan = StreamPlan(
            len(dataset), SHARD_SIZE, 8, 3, 2, drop_last=True, views_per_load=4, views_together=together
        )
        batches = [plan.rows(number) for number in range(4)]
        assert [len(set(batch.rows_B.tolist())) for batch in batches] == [rows_of_batch] * 4
        if not together:
            assert all(set(batch.rows_B) == set(batches[0].rows_B) for batch in batches)
            turns = np.stack([batch.view_slots_B for batch in batches])
            assert np.array_equal(np.sort(turns, axis=0), np.arange(4)[:, None].repeat(8, 1))
            assert len(set(turns[0].tolist())) == 4


@pytest.mark.slow
@given(
    num_rows=st.integers(12, 100),
    batch_size=st.sampled_from([2, 4, 6]),
    views_per_load=st.sampled_from([1, 2]),
    together=st.booleans(),
    world_size=st.integers(1, 2),
)
def test_a_pass_shows_each_row_in_each_view_at_most_once(
    num_rows: int, batch_size: int, views_per_load: int, together: bool, world_size: int
) -> None:
    mixing = Mixing(deit(32), str, num_rows, 16)
    seen = []
    for rank in range(world_size):
        plan = StreamPlan(
            num_rows, 16, batch_size, 1, 2, rank, world_size, True, views_per_load, together
        )  # fmt: skip
        for number in range(views_per_load * plan.batches_per_epoch):
            rows_B, view_slots_B = plan.rows(
                number, lambda rows, _: mixing.mixing_groups(rows, range(views_per_load))
            )
            assert len(rows_B) == batch_size
            seen += list(zip(rows_B.tolist(), view_slots_B.tolist(), strict=True))
    assert len(set(seen)) == len(seen)


PRINT_PIXELS = """
import json, sys, torch
sys.path[:0] = {tests!r}
from test_batch import streamed
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.views.recipe import deit
torch.set_num_threads(1)
print(json.dumps(sorted(map(str, streamed(PackedDataset({data!r}), deit(32)).items()))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_mixed_pixels_do_not_depend_on_cpu_or_process(
    data: str, dataset: PackedDataset, capability: str
) -> None:
    program = PRINT_PIXELS.format(tests=sys.path, data=data)
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(printed) == sorted(map(str, streamed(dataset, deit(IMG_SIZE)).items()))
