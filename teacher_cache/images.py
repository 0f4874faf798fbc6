"""Decode image bytes to uint8 pixels, within limits.

libjpeg-turbo decodes JPEG (simplejpeg: full decode, accurate DCT, smooth upsampling), and its pixels are the
same in every library built on it; Pillow decodes everything else. EXIF orientation is ignored, as in
torchvision's ImageFolder and so in timm. Grey becomes three equal channels; alpha is dropped.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from teacher_cache.errors import ImageError

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_PIXELS = 89_478_485
"""Pillow's own limit (Image.MAX_IMAGE_PIXELS): above it a small file may be a decompression bomb."""

_JPEG_MAGIC = b"\xff\xd8\xff"
_TURBO_COLORSPACES = ("YCbCr", "RGB", "Gray")


def check_size(name: str, height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image with too many pixels. Raises ImageError."""
    if height * width > max_pixels:
        raise ImageError(
            f"image {name!r} is {width} x {height}, {height * width:,} pixels",
            f"More than {max_pixels:,} pixels is taken for a decompression bomb.",
            "re-encode the image smaller, or leave it out",
        )


def decode(
    data: bytes | memoryview,
    name: str,
    max_pixels: int = MAX_PIXELS,
    empty: Callable[[int], npt.NDArray[np.uint8]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB pixels.

    Args:
        data: Encoded JPEG, PNG or WebP image.
        name: Name of the image in errors: its key or path.
        max_pixels: Largest height x width that is decoded; checked on the header first.
        empty: Function that returns uint8 memory of a number of bytes to decode into; None allocates it.

    Returns:
        uint8 (height, width, 3), contiguous.

    Raises:
        ImageError: The image is broken, truncated, of another format, or above the limit.
    """
    try:
        if bytes(data[:3]) == _JPEG_MAGIC:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            check_size(name, height, width, max_pixels)
            if colorspace in _TURBO_COLORSPACES:
                buffer = empty(height * width * 3) if empty else None
                return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
                check_size(name, image.height, image.width, max_pixels)
                return np.array(image.convert("RGB"))
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"image {name!r} cannot be decoded: {error}",
            "A teacher or a student that met it would stop.",
            "replace the file, or leave it out",
        ) from error


def extension_of(data: bytes) -> str:
    """Return jpg, png or webp, by the first bytes: names can be wrong (ImageNet has a PNG named .JPEG)."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data[8:12] == b"WEBP" else "jpg"


def encode_jpeg(pixels_HWC: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Encode RGB pixels as a 4:2:0 JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels_HWC), quality, "RGB", "420")


def shrink(pixels_HWC: npt.NDArray[np.uint8], max_side_px: int) -> npt.NDArray[np.uint8]:
    """Resize RGB pixels with Lanczos so that no side exceeds `max_side_px`; smaller images are unchanged."""
    height, width = pixels_HWC.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return pixels_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels_HWC).resize(size, Image.Resampling.LANCZOS))
