"""Replay check: digests of a few probe images' views, which detect libraries that render other pixels.

An archive stores the digest from the time it was made. A program that opens it to replay views renders the
probes again, in under a second once the ops are compiled, and refuses on a difference. The probe images in
probe_images/ are patterns of waves, edges and isolated pixels, as 4:4:4, 4:2:0, grey and CMYK JPEG, palette
PNG and lossy WebP, and one larger than most views, so that both enlarging and reducing are covered.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
from collections.abc import Mapping

import numpy as np

from teacher_cache.errors import RecipeError
from teacher_cache.exact.canonical import canonical_json
from teacher_cache.views import ops
from teacher_cache.views.finishing import erased_values
from teacher_cache.views.mixing import sample_mix
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views
from teacher_cache.views.sampling import PixelOp, ops_of

PIXEL_LIBRARIES = ("torch", "simplejpeg", "pillow", "numpy", "numba", "llvmlite")
"""Libraries that turn image bytes into view pixels."""

_VIEWS = range(4)
_AMOUNTS = (0.3, 1.7)
"""Amounts at which every op is probed; for an op with a factor, one below 1 (no change) and one above."""


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that make pixels."""
    return {name: importlib.metadata.version(name) for name in PIXEL_LIBRARIES}


def probe_digest(recipe: Recipe) -> str:
    """Return the sha256 over the pixels of four views of each probe image, in order of their names.

    It also covers each pixel op that the recipe can choose, applied to the last of these views, and, if the
    recipe erases or mixes, the pixel values for erased bytes and the mixing of some pairs. It leaves out ops
    that the recipe cannot choose, so that archives of other recipes stay valid when an op is added.
    """
    digest = hashlib.sha256()
    out_VHWC = np.empty((len(_VIEWS), recipe.img_size, recipe.img_size, 3), np.uint8)
    folder = importlib.resources.files("teacher_cache.views") / "probe_images"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        render_views(file.read_bytes(), recipe, file.name, _VIEWS, out_VHWC)
        digest.update(out_VHWC.transpose(0, 3, 1, 2).tobytes())
    for name in sorted(ops_of(recipe)):
        for amount in _AMOUNTS:
            ops.draw_view(out_VHWC[-1], [PixelOp(name, amount)], recipe.fill, out_VHWC[0])
            digest.update(out_VHWC[0].tobytes())
    if recipe.erasing is not None:
        digest.update(erased_values(recipe.erasing).astype("<f4").tobytes())
    if recipe.mixing is not None:
        digest.update(canonical_json([sample_mix(recipe, "probe", view) for view in range(16)]))
    return digest.hexdigest()


def check_probe(recipe: Recipe, expected_digest: str, made_with: Mapping[str, str]) -> None:
    """Raise an error if the installed libraries would render other pixels than the ones that were labelled.

    Args:
        expected_digest: Result of `probe_digest` when the labels were made.
        made_with: Versions from `library_versions` when the labels were made; other names are left aside.

    Raises:
        RecipeError: The pixels differ; the message names the recipe and the library versions then and now.
    """
    if probe_digest(recipe) == expected_digest:
        return
    here = library_versions()
    changes = [
        f"{name} {made_with.get(name, 'unknown')} -> {here[name]}"
        for name in here
        if here[name] != made_with.get(name)
    ]
    raise RecipeError(
        f"recipe {recipe.name!r} renders other pixels here than when these labels were made "
        f"({', '.join(changes) or 'with the same library versions'})",
        "A student would see other views than the teacher labelled.",
        "install " + " ".join(f"{name}=={version}" for name, version in made_with.items() if name in here),
    )
