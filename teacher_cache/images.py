"""Decode image bytes to uint8 pixels, whole or the part that is wanted, within limits.

libjpeg-turbo decodes JPEG (simplejpeg: full decode, accurate DCT, smooth upsampling), and its pixels are the
same in every library built on it; Pillow decodes everything else, and JPEG that libjpeg-turbo decodes with a
warning. EXIF orientation is ignored, as in torchvision's ImageFolder and so in timm. Grey becomes three equal
channels, 16-bit grey its high bytes (as Pillow does with 16-bit colour); alpha is dropped.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image

from teacher_cache.errors import ImageError
from teacher_cache.jpeg.cut import cut
from teacher_cache.jpeg.header import Header, read_header, read_segments

Pixels = npt.NDArray[np.uint8]
Empty = Callable[[int], Pixels]
EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_PIXELS = 89_478_485
"""Pillow's own limit (Image.MAX_IMAGE_PIXELS): above it a small file may be a decompression bomb."""

MAX_PIXELS_TO_SHRINK = 2 * MAX_PIXELS
"""Limit of images that are shrunk before anything else is done; above it Pillow raises an error."""
_LARGEST_SHARE = 0.9
"""Share of an image's pieces above which it is decoded whole: cutting takes about a twentieth of a decode."""
HEAD_BYTES = 32
"""Bytes at the beginning of a file that `format_of` needs."""

FRAMES = "frames after the first"
ORIENTATION = "an orientation in EXIF: pixels are taken as they are stored"
_PERHAPS_UNUSED = (b"Exif", b"eXIf", b"EXIF", b"acTL", b"ANIM", b"MPF\0")
"""Marks of EXIF in JPEG, PNG and WebP, and of more than one frame in PNG, WebP and JPEG."""

_FORMATS = ("JPEG", "PNG", "WEBP")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_JPEG_MAGIC = b"\xff\xd8\xff"
_UNREAD_MAGIC = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis", b"avif", b"avis")
_TURBO_COLORSPACES = ("YCbCr", "RGB", "Gray")


def check_size(name: str, height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image with too many pixels. Raises ImageError."""
    if height * width > max_pixels:
        raise ImageError(
            f"image {name!r} is {width} x {height}, {height * width:,} pixels",
            f"More than {max_pixels:,} pixels is taken for a decompression bomb.",
            "re-encode the image at a smaller size, or remove it",
        )


def decode(
    data: bytes | memoryview,
    name: str,
    max_pixels: int = MAX_PIXELS,
    empty: Empty | None = None,
) -> Pixels:
    """Decode an image to RGB pixels.

    Args:
        data: Encoded JPEG, PNG or WebP image.
        name: Name of the image in errors: its key or path.
        max_pixels: Largest height x width that is decoded; checked on the header first.
        empty: Function that returns uint8 memory of a given size in bytes to decode into; None allocates it.

    Returns:
        uint8 (height, width, 3), contiguous.

    Raises:
        ImageError: The image is broken, truncated, of another format, or above the limit.
    """
    try:
        if bytes(data[:3]) == _JPEG_MAGIC:
            with contextlib.suppress(ValueError):  # warnings of libjpeg-turbo are errors here; Pillow decides
                height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
                check_size(name, height, width, max_pixels)
                if colorspace in _TURBO_COLORSPACES:
                    buffer = empty(height * width * 3) if empty else None
                    return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
        try:
            return _pixels_by_pillow(data, name, max_pixels)
        except (ValueError, OSError, SyntaxError):  # Pillow refuses more than 1 MB of text or profile
            plain = _without_text(data)
            if plain is None:
                raise
            return _pixels_by_pillow(plain, name, max_pixels)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError, struct.error) as error:
        raise ImageError(
            f"image {name!r} cannot be decoded: {error}",
            "Labelling or training would stop at this image.",
            "replace the file, or remove it",
        ) from error


class Crop(NamedTuple):
    """Pixels of a part of an image, uint8 (height, width, 3), and the row and column where it begins."""

    pixels_HWC: Pixels
    top: int
    left: int


class Picture:
    """Encoded image of known size, of which only the requested part is decoded where the format allows it.

    JPEGs with restart markers in every row can be cut (teacher_cache/jpeg/); all others are decoded whole.

    Args:
        data: Encoded JPEG, PNG or WebP image.
        name: Name of the image in errors: its key or path.
        empty: Function that returns uint8 memory of a given size in bytes to decode into; None allocates it.

    Raises:
        ImageError: The image is broken, truncated, of another format, or has too many pixels.
    """

    def __init__(self, data: bytes | memoryview, name: str, empty: Empty | None = None) -> None:
        self._data, self._name, self._empty = data, name, empty
        self._pixels_HWC: Pixels | None = None
        self._header: Header | None = None
        segments = read_segments(self._data)
        if segments is not None and segments.restart_interval:
            self._header = read_header(self._data, segments)
        if self._header is not None:
            self.height, self.width = self._header.height, self._header.width
            check_size(name, self.height, self.width)
        else:
            self.height, self.width = self._whole().shape[:2]

    def crop(self, top: int, left: int, height: int, width: int) -> Crop:
        """Return the pixels of a box, or of a larger part of the image that contains it.

        The pixels equal those of `decode`, bit for bit.

        Raises:
            ImageError: The image is broken or truncated.
        """
        if self._pixels_HWC is None and self._header is not None:
            found = cut(self._data, self._header, top, left, height, width, _LARGEST_SHARE)
            if found is not None:
                with contextlib.suppress(ValueError):  # a warning: the whole decides
                    buffer = self._empty(found.height * found.width * 3) if self._empty else None
                    pixels_HWC = simplejpeg.decode_jpeg(found.data, "RGB", buffer=buffer)
                    return Crop(pixels_HWC, found.top, found.left)
        return Crop(self._whole(), 0, 0)

    def _whole(self) -> Pixels:
        if self._pixels_HWC is None:
            self._pixels_HWC = decode(self._data, self._name, empty=self._empty)
        return self._pixels_HWC


def _pixels_by_pillow(data: bytes | memoryview, name: str, max_pixels: int) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_size(name, image.height, image.width, max_pixels)
            return _rgb(image)


def _without_text(data: bytes | memoryview) -> bytes | None:
    """Return a PNG without its chunks of text and its colour profile; None for other data."""
    if bytes(data[:8]) != _PNG_MAGIC:
        return None
    kept, start = [bytes(data[:8])], 8
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        stop = start + 12 + length
        if kind not in _PNG_TEXT:
            kept.append(bytes(data[start:stop]))
        start = stop
    return b"".join(kept)


def unused_parts(data: bytes) -> list[str]:
    """Return what `decode` leaves out of an image: FRAMES, ORIENTATION."""
    if not any(mark in data for mark in _PERHAPS_UNUSED):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(_without_text(data) or data), formats=_FORMATS) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                has_frames = getattr(image, "n_frames", 1) > 1
    except (ValueError, OSError, SyntaxError, struct.error, Image.DecompressionBombError):  # decode tells
        return []
    return [FRAMES] * has_frames + [ORIENTATION] * (orientation in range(2, 9))


def _rgb(image: Image.Image) -> Pixels:
    """Return RGB pixels; Pillow's own conversion would clip 16-bit grey at 255 instead of scaling it."""
    if image.mode.startswith("I"):
        high_HW = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(high_HW[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def format_of(head: bytes) -> str | None:
    """Return jpg, png or webp, another image format's name in capitals, or None for an unknown format."""
    if head.startswith(_JPEG_MAGIC) or head.startswith(b"\x89PNG\r\n") or head[8:12] == b"WEBP":
        return extension_of(head)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "AVIF" if head[8:11] == b"avi" else "HEIF"
    return next((name for magic, name in _UNREAD_MAGIC if head.startswith(magic)), None)


def extension_of(data: bytes) -> str:
    """Return jpg, png or webp, by the first bytes: names can be wrong (ImageNet has a PNG named .JPEG)."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data[8:12] == b"WEBP" else "jpg"


def encode_jpeg(pixels_HWC: Pixels, quality: int) -> bytes:
    """Encode RGB pixels as a 4:2:0 JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels_HWC), quality, "RGB", "420")


def shrink(pixels_HWC: Pixels, max_side_px: int) -> Pixels:
    """Resize RGB pixels with Lanczos so that no side exceeds `max_side_px`; smaller images are unchanged."""
    height, width = pixels_HWC.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return pixels_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels_HWC).resize(size, Image.Resampling.LANCZOS))
