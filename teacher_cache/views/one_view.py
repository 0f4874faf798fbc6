"""One view of one image as a function of its bytes, for readers such as webdataset, streaming and grain."""

from __future__ import annotations

import numpy as np
import torch

from teacher_cache.errors import RecipeError
from teacher_cache.views.finish import finish
from teacher_cache.views.finishing import Finishing, erased_values
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views


def render(image_bytes: bytes | memoryview, recipe: Recipe, key: str, view: int) -> torch.Tensor:
    """Return the pixels of a view as the teacher saw it: float32 (3, H, W) from 0 to 255, H = W = img_size.

    `ViewBatch.pixels` gives the same pixels, bit for bit.

    Args:
        image_bytes: Encoded image, exactly as the packed dataset stores it.
        recipe: Recipe without mixing; `open_labels(...).recipe` of the archive.
        key: Key of the sample.
        view: View index.

    Raises:
        RecipeError: The recipe mixes views, which takes two images: use LabelledViews.
        ImageError: The image cannot be decoded.
    """
    if recipe.mixing:
        raise RecipeError(
            f"recipe {recipe.name!r} mixes views",
            "A mixed view is made from two images, and `render` takes only one.",
            "use LabelledViews, or label with a recipe that does not mix, such as rrc",
        )
    out_1HWC = np.empty((1, recipe.img_size, recipe.img_size, 3), np.uint8)
    (params,) = render_views(image_bytes, recipe, key, [view], out_1HWC)
    finishing = None
    if params.erase is not None:
        finishing = Finishing(
            erase_R4=torch.tensor([params.erase], dtype=torch.int32),
            erased_C256=torch.from_numpy(erased_values(recipe.erasing)),
            partner_B=torch.zeros(1, dtype=torch.int64),
            blend_B=torch.ones(1),
            box_B4=torch.zeros(1, 4, dtype=torch.int32),
            weight_B=torch.ones(1),
        )
    return finish(torch.from_numpy(out_1HWC).permute(0, 3, 1, 2), finishing)[0]
