import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import IMG_SIZE, K

from pipelines.cli import main
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.batches.batch import view_batch
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.views.sampling import sample_view

Capture = pytest.CaptureFixture[str]


def test_every_parameter_of_a_view_is_printed(
    data: str, labels: str, dataset: PackedDataset, capsys: Capture
) -> None:
    assert main(["inspect", labels, "--data", data, "--row", "5", "--view", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    recipe = ArchiveReader(labels).recipe
    key = dataset.index.key(5)
    params = sample_view(recipe, key, 2, shown["image_height"], shown["image_width"])
    assert (shown["key"], shown["recipe_sha256"]) == (key, recipe.sha256)
    assert {name: shown[name] for name in ("seed", "top", "left", "flip")} == {
        name: getattr(params, name) for name in ("seed", "top", "left", "flip")
    }
    assert [(op["name"], op["amount"]) for op in shown["ops"]] == list(params.ops)
    partner = int(BatchRenderer(dataset, recipe).mixing.partners(np.array([5]), 2)[0])
    assert shown["partner_key"] == dataset.index.key(partner)
    assert 0 <= shown["weight"] <= 1
    shares = [entry["probability"] for entry in shown["label"]]
    assert len(shares) == K
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1


def test_a_key_is_found_and_plain_lines_hold_the_same(data: str, capsys: Capture) -> None:
    key = PackedDataset(data).index.key(7)
    flags = ["--data", data, "--view", "1", "--recipe", "deit3", "--img-size", "32"]
    assert main(["inspect", *flags, "--key", key]) == 0
    by_key = capsys.readouterr().out
    assert main(["inspect", *flags, "--row", "7"]) == 0
    assert capsys.readouterr().out == by_key
    assert f"key            {key}" in by_key
    assert "ops            name=" in by_key


def test_the_picture_shows_box_view_partner_and_mix(
    data: str, dataset: PackedDataset, tmp_path: Path
) -> None:
    file = tmp_path / "view.png"
    flags = ["--data", data, "--row", "3", "--view", "4", "--img-size", str(IMG_SIZE), "--image", str(file)]
    assert main(["inspect", *flags]) == 0
    strip = np.asarray(Image.open(file))
    from teacher_cache.views.recipe import deit

    (batch,) = map(
        view_batch, BatchRenderer(dataset, deit(IMG_SIZE)).render([ViewIds(np.array([3]), np.array([4]))])
    )
    assert strip.shape[0] == IMG_SIZE
    panels = [strip[:, stop - IMG_SIZE : stop] for stop in (-2 * IMG_SIZE - 16, -IMG_SIZE - 8)]
    for panel, image_CHW in zip(panels, batch.images_RCHW, strict=True):
        assert np.array_equal(panel, image_CHW.permute(1, 2, 0))
    mixed = batch.pixels("cpu")[0].permute(1, 2, 0).round().clamp(0, 255)
    assert np.array_equal(strip[:, -IMG_SIZE:], mixed)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--row", "33"], "--row 33, but"),
        (["--row", "-1"], "--row -1"),
        (["--row", "1", "--key", "a"], "--row and --key"),
        (["--view", "-1"], "--view -1"),
        (["--key", "nobody"], "has no sample 'nobody'"),
        (["--recipe", "deit4"], "nearest: deit"),
        (["--image", "/nowhere/view.png"], "--image /nowhere/view.png cannot be written"),
        (["--image", "view.nothing"], "--image view.nothing cannot be written"),
    ],
)
def test_a_wrong_request_is_said(flags: list[str], message: str, data: str, capsys: Capture) -> None:
    assert main(["inspect", "--data", data, *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_archive_brings_its_own_recipe(data: str, labels: str, capsys: Capture) -> None:
    assert main(["inspect", labels, "--data", data, "--recipe", "rrc"]) == 2
    assert "--recipe or --img-size with an archive" in capsys.readouterr().err
    assert main(["inspect", labels]) == 2
    assert "--data is missing" in capsys.readouterr().err
