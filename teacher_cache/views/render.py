"""Steps of a view on the CPU: image bytes and parameters -> uint8 pixels; all randomness is in the arguments.

Nothing here imports torch: a process that renders holds numpy, numba and a JPEG decoder. Pixels are
(H, W, 3), the layout of the decoders and of the compiled loops.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from teacher_cache import images
from teacher_cache.views.kernels import Pixels
from teacher_cache.views.ops import draw_view
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.resize import resized
from teacher_cache.views.sampling import Box, ViewParams, erasing_noise, sample_view


def render_views(
    image_bytes: bytes | memoryview,
    recipe: Recipe,
    key: str,
    views: Sequence[int],
    out_VHWC: Iterable[Pixels],
) -> list[ViewParams]:
    """Decode, once, the part of an image that `views` need, and render these views into `out_VHWC`.

    The pixels depend on the arguments alone, bit for bit, so that views can be replayed. Each view is
    uint8 (img_size, img_size, 3).

    Returns:
        Parameters of each view.

    Raises:
        ImageError: The image cannot be decoded, or is so long and thin that its short side cannot be resized.
    """
    picture = images.Picture(image_bytes, key, empty=_scratch.empty)
    params_V = [sample_view(recipe, key, view, picture.height, picture.width) for view in views]
    for params in params_V:
        images.check_size(key, params.resize_height, params.resize_width)
    crop = picture.crop(*_union(params_V))
    for params, out_HWC in zip(params_V, out_VHWC, strict=True):
        box = params._replace(top=params.top - crop.top, left=params.left - crop.left)
        render_crop(crop.pixels_HWC, recipe, box, out_HWC)
    return params_V


def _union(params_V: Sequence[ViewParams]) -> Box:
    """Return the smallest box that holds the source boxes of all views."""
    top, left = min(params.top for params in params_V), min(params.left for params in params_V)
    bottom = max(params.top + params.height for params in params_V)
    right = max(params.left + params.width for params in params_V)
    return Box(top, left, bottom - top, right - left)


class _Scratch(threading.local):
    """Buffer that a thread reuses for each image it decodes, instead of allocating memory each time."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def empty(self, num_bytes: int) -> Pixels:
        if len(self._buffer) < num_bytes:
            self._buffer = np.empty(num_bytes, np.uint8)
        return self._buffer[:num_bytes]


_scratch = _Scratch()


def render_crop(pixels_HWC: Pixels, recipe: Recipe, params: ViewParams, out_HWC: Pixels) -> None:
    """Render one view of an image's pixels into `out_HWC`, uint8 (img_size, img_size, 3), C-contiguous."""
    view_HWC = resized_window(pixels_HWC, params, recipe.img_size)
    draw_view(view_HWC, params.ops, recipe.fill, out_HWC)
    if params.erase is not None:
        top, left, height, width = params.erase
        noise = erasing_noise(params).octets(height * width * 3)
        out_HWC[top : top + height, left : left + width] = noise.reshape(height, width, 3)


def resized_window(pixels_HWC: Pixels, params: ViewParams, size: int) -> Pixels:
    """Crop the source box, resize it, crop the window, and flip it if asked; return uint8 (size, size, 3)."""
    box_HWC = pixels_HWC[params.top : params.top + params.height, params.left : params.left + params.width]
    height, width = params.resize_height, params.resize_width
    top, left = params.window_top, params.window_left
    if 0 <= top <= height - size and 0 <= left <= width - size:
        view_HWC = resized(box_HWC, height, width, top, left, size, size)
    else:
        view_HWC = _reflected_window(box_HWC, height, width, top, left, size)
    return np.ascontiguousarray(view_HWC[:, ::-1]) if params.flip else view_HWC


def _reflected_window(box_HWC: Pixels, height: int, width: int, top: int, left: int, size: int) -> Pixels:
    """Return the square at (top, left) of a box resized to (height, width), reflected beyond its edges."""
    rows, columns = _reflected(top, size, height), _reflected(left, size, width)
    first_y, first_x = rows.min(), columns.min()
    inside_HWC = resized(
        box_HWC, height, width, first_y, first_x, rows.max() + 1 - first_y, columns.max() + 1 - first_x
    )
    rows, columns = rows - first_y, columns - first_x
    first, stop = max(left, 0), min(left + size, width)
    view_HWC = np.empty((size, size, 3), np.uint8)
    view_HWC[:, first - left : stop - left] = inside_HWC[rows, first - first_x : stop - first_x]
    for x in (*range(first - left), *range(stop - left, size)):
        view_HWC[:, x] = inside_HWC[rows, columns[x]]
    return view_HWC


def _reflected(start: int, count: int, size: int) -> npt.NDArray[np.int64]:
    """Return indices start to start + count, with those outside [0, size) reflected at its first or last."""
    places = np.abs(np.arange(start, start + count))
    return size - 1 - np.abs(size - 1 - places)
