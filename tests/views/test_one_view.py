"""A view as a function: any reader of the packed tars sees the views, and finds their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from support import IMG_SIZE, extract_flags

from pipelines.cli import main
from teacher_cache import LabelledViews, PackedDataset, load_recipe, open_labels, render
from teacher_cache.errors import RecipeError

ERASING = """
img_size: 32
ops:
  - op: random_resized_crop
  - op: horizontal_flip
  - op: random_erasing
    probability: 0.9
"""


@pytest.mark.parametrize("recipe", ["rrc", "eval", "erasing"])
def test_plain_webdataset_sees_the_views_and_labels_of_the_stream(
    recipe: str, data: str, tmp_path: Path
) -> None:
    (tmp_path / "erasing.yaml").write_text(ERASING)
    name, size = (str(tmp_path / "erasing.yaml"), None) if recipe == "erasing" else (recipe, IMG_SIZE)
    words = extract_flags(data, tmp_path / "labels", recipe=name, img_size=size, views="0:2")
    assert main([*words, "--allow-disagreement"]) == 0
    streamed = {}
    views = LabelledViews(data, labels=str(tmp_path / "labels"), batch_size=33)
    for epoch in range(2):
        for batch in views.epoch(epoch):
            pixels_BCHW = batch.pixels("cpu")
            for place, (row, view) in enumerate(
                zip(batch.rows_B.tolist(), batch.views_B.tolist(), strict=True)
            ):
                streamed[row, view] = (pixels_BCHW[place], *(part[place] for part in batch.labels))

    labels = open_labels(str(tmp_path / "labels"))
    row_of = {key: row for row, key in enumerate(PackedDataset(data).index.keys.to_pylist())}
    tars = sorted(str(file) for file in Path(data).glob("*.tar"))
    seen = set()
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        image = next(sample[name] for name in ("jpg", "png", "webp") if name in sample)
        row = row_of[sample["__key__"]]
        for view in labels.views:
            ours = render(image, labels.recipe, sample["__key__"], view)
            found = labels.lookup(np.array([row]), np.array([view]))
            for mine, theirs in zip((ours, *(part[0] for part in found)), streamed[row, view], strict=True):
                assert torch.equal(mine, theirs)
            seen.add((row, view))
    assert seen == set(streamed)
    assert len(seen) == 66


def test_recipes_that_mix_are_refused() -> None:
    with pytest.raises(RecipeError, match="mixes views"):
        render(b"", load_recipe("deit", IMG_SIZE), "a", 0)
