"""Parameters and labels of one view, as data and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from pipelines.archive.flags import InspectConfig
from teacher_cache import images
from teacher_cache.archive.open import open_labels
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.batches.batch import ViewBatch, view_batch
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.views.recipe import Recipe, load_recipe
from teacher_cache.views.sampling import ViewParams, sample_view

_BOX_COLOR = (255, 0, 64)
_GAP_PX = 8
_WIDEST = 8
"""Largest ratio of width to height of the panel that shows the image."""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """One view: parameters as plain values, and pictures of the steps that make it.

    Attributes:
        values: Values that `teacher-cache inspect --json` prints.
        strip: Pictures side by side: the image with its crop box, the view, its mixing partner, and the mix.
    """

    values: dict[str, Any]
    strip: Image.Image


class Inspector:
    """Views of a dataset, one at a time: their parameters, labels and pictures.

    Args:
        archive: Source of the labels; None to show views without labels.
    """

    def __init__(self, dataset: PackedDataset, recipe: Recipe, archive: LabelSource | None) -> None:
        self._dataset, self._recipe, self._archive = dataset, recipe, archive
        self._renderer = BatchRenderer(dataset, recipe)

    def inspect(self, row: int, view: int) -> Inspection:
        """Return the parameters, label and pictures of a view, rendered with its mixing partner.

        Raises:
            ImageError: The image is damaged.
        """
        dataset, recipe = self._dataset, self._recipe
        key = dataset.index.key(row)
        pixels_HWC = images.decode(dataset.image_bytes(row), key)
        params = sample_view(recipe, key, view, *pixels_HWC.shape[:2])
        label, classes = int(dataset.index.labels_N[row]), dataset.info.classes
        values: dict[str, Any] = {
            "key": key,
            "row": row,
            "class": classes[label] if classes and label >= 0 else label,
            "view": view,
            "recipe": recipe.name,
            "recipe_sha256": recipe.sha256,
            "image_height": pixels_HWC.shape[0],
            "image_width": pixels_HWC.shape[1],
            **params._asdict(),
            "ops": [op._asdict() for op in params.ops],
            "erase": params.erase._asdict() if params.erase else None,
        }
        mixing = self._renderer.mixing
        if mixing is not None:
            partner = int(mixing.partners(np.array([row]), view)[0])
            mix = mixing.mix(row, partner, view)
            values |= {"partner_key": dataset.index.key(partner), "partner_row": partner, **mix._asdict()}
            values["box"] = mix.box._asdict()
        if self._archive is not None and view in self._archive.views:
            values["label"] = _label(self._archive, dataset, row, view)
        return Inspection(values, _strip(pixels_HWC, params, self._render(row, view), recipe.img_size))

    def picture(self, row: int, view: int) -> Image.Image:
        """Return a view as a student sees it: erased and mixed."""
        return _finished(self._render(row, view))

    def _render(self, row: int, view: int) -> ViewBatch:
        (batch,) = self._renderer.render([ViewIds(np.array([row]), np.array([view]))])
        return view_batch(batch)


def inspect_view(config: InspectConfig) -> Inspection:
    """Return the parameters, label and pictures of the view that the flags name.

    Raises:
        InputError: There is no such row or key; see also `open_labels` and `PackedDataset`.
    """
    dataset = PackedDataset(config.data, images_in=config.images_in)
    archive = open_labels(config.archive) if config.archive else None
    if archive is not None:
        archive.check_replay(dataset.info)
    recipe = archive.recipe if archive else load_recipe(config.recipe or "deit", config.img_size)
    return Inspector(dataset, recipe, archive).inspect(_row(dataset, config), config.view)


def _row(dataset: PackedDataset, config: InspectConfig) -> int:
    if config.key is not None:
        rows = (row for row in range(len(dataset)) if dataset.index.key(row) == config.key)
        row = next(rows, None)
        if row is None:
            raise InputError(
                f"{config.data} has no sample {config.key!r}",
                "There is no image to render.",
                "choose a key that its index.parquet lists",
            )
        return row
    row = config.row or 0
    if row >= len(dataset):
        raise InputError(
            f"--row {row}, but {config.data} has {len(dataset):,} samples",
            "There is no image to render.",
            f"choose a row from 0 to {len(dataset) - 1}",
        )
    return row


def _label(archive: LabelSource, dataset: PackedDataset, row: int, view: int) -> list[dict[str, Any]]:
    labels = archive.decode_rows(archive.lookup_stored(np.array([row]), np.array([view])))
    pairs = zip(labels.class_ids_BK[0].tolist(), labels.probabilities()[0].tolist(), strict=True)
    classes = dataset.info.classes
    return [
        {"class": classes[number] if classes else number, "probability": share} for number, share in pairs
    ]


def _strip(pixels_HWC: npt.NDArray[np.uint8], params: ViewParams, batch: ViewBatch, size: int) -> Image.Image:
    height, width = pixels_HWC.shape[:2]
    original = Image.fromarray(pixels_HWC)
    scale_y, scale_x = params.height / params.resize_height, params.width / params.resize_width
    top, left = params.top + scale_y * params.window_top, params.left + scale_x * params.window_left
    crop = (left, top, left + max(scale_x * size - 1, 0), top + max(scale_y * size - 1, 0))
    ImageDraw.Draw(original).rectangle(crop, outline=_BOX_COLOR, width=max(1, height // 100))
    scale = min(size / height, _WIDEST * size / width)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    panels = [original.resize(shown, Image.Resampling.BICUBIC)]
    panels += [_picture(image_CHW) for image_CHW in batch.images_RCHW]
    if batch.targets.weight_B is not None:
        panels.append(_finished(batch))
    return _side_by_side(panels)


def _finished(batch: ViewBatch) -> Image.Image:
    return _picture(batch.pixels("cpu")[0].round().clamp(0, 255).to(torch.uint8))


def _picture(image_CHW: torch.Tensor) -> Image.Image:
    return Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().numpy())


def _side_by_side(panels: Iterable[Image.Image]) -> Image.Image:
    row = list(panels)
    whole = sum(panel.width + _GAP_PX for panel in row) - _GAP_PX
    strip = Image.new("RGB", (whole, max(panel.height for panel in row)), "white")
    left = 0
    for panel in row:
        strip.paste(panel, (left, 0))
        left += panel.width + _GAP_PX
    return strip
