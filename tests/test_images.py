import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import encoded, picture

from teacher_cache import images
from teacher_cache.errors import ImageError

IMAGE = picture(1, 48, 64)


def pillow_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (IMAGE, "JPEG", {"subsampling": 0}),
        (IMAGE, "JPEG", {"subsampling": 2}),
        (IMAGE, "JPEG", {"progressive": True}),
        (IMAGE.convert("L"), "JPEG", {}),
        (IMAGE.convert("CMYK"), "JPEG", {}),
        (IMAGE, "PNG", {}),
        (IMAGE.convert("L"), "PNG", {}),
        (IMAGE.convert("RGBA"), "PNG", {}),
        (IMAGE.convert("P"), "PNG", {}),
        (IMAGE, "WEBP", {"lossless": True}),
        (IMAGE, "WEBP", {"quality": 60}),
    ],
)
def test_every_kind_decodes_to_pillows_pixels(image: Image.Image, kind: str, options: dict) -> None:
    data = encoded(image, kind, **options)
    pixels = images.decode(data, "key")
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, pillow_pixels(data))


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert images.decode(encoded(IMAGE, "JPEG", exif=exif), "key").shape == (48, 64, 3)


def test_a_png_with_more_text_than_pillow_takes_has_its_pixels() -> None:
    text = PngInfo()
    text.add_text("workflow", "node " * 400_000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x/>" * 400_000, zip=True)
    data = encoded(IMAGE, "PNG", pnginfo=text, icc_profile=bytes(1_500_000))
    with pytest.raises(ValueError, match="Decompressed data too large"):
        pillow_pixels(data)
    np.testing.assert_array_equal(images.decode(data, "key"), pillow_pixels(encoded(IMAGE, "PNG")))
    with pytest.raises(ImageError, match="cannot be decoded"):
        images.decode(data[: -len(encoded(IMAGE, "PNG")) // 2], "key")


def frames(kind: str, count: int) -> bytes:
    more = [picture(number, 48, 64) for number in range(1, count)]
    return encoded(IMAGE, kind, save_all=True, append_images=more)


def bomb_with_exif() -> bytes:
    """A PNG that says that it is 20,000 pixels high and wide, with a mark of EXIF."""
    data = turned("PNG", 6)
    size = struct.pack(">II", 20_000, 20_000)
    head = b"IHDR" + size + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(IMAGE, kind, exif=exif)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (frames("WEBP", 3), [images.FRAMES]),
        (frames("PNG", 3), [images.FRAMES]),
        (frames("MPO", 2), [images.FRAMES]),
        (frames("WEBP", 1), []),
        (frames("PNG", 1), []),
        *((turned(kind, 6), [images.ORIENTATION]) for kind in ("JPEG", "PNG", "WEBP")),
        *((turned(kind, 1), []) for kind in ("JPEG", "PNG", "WEBP")),
        (encoded(IMAGE, "JPEG"), []),
        (b"\xff\xd8\xff Exif cut", []),
        (b"\x89PNG\r\n\x1a\n eXIf", []),
        (b"", []),
        (bomb_with_exif(), []),
    ],
)
def test_frames_and_orientation_that_are_left_out_are_told(data: bytes, parts: list[str]) -> None:
    assert images.unused_parts(data) == parts


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_named(kind: str) -> None:
    data = encoded(IMAGE, kind)
    with pytest.raises(ImageError, match="image 'some/key' cannot be decoded"):
        images.decode(data[: len(data) // 2], "some/key")


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 cut"])
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(ImageError, match="image 'k' cannot be decoded"):
        images.decode(data, "k")


def test_other_formats_are_refused() -> None:
    with pytest.raises(ImageError, match="cannot be decoded"):
        images.decode(encoded(IMAGE, "GIF"), "k")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_too_many_pixels_are_refused_by_the_header(kind: str) -> None:
    with pytest.raises(ImageError, match=r"64 x 48, 3,072 pixels(.|\n)*decompression bomb"):
        images.decode(encoded(IMAGE, kind), "k", max_pixels=3000)


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_the_extension_is_the_contents(kind: str, extension: str) -> None:
    assert images.extension_of(encoded(IMAGE, kind)) == extension


def test_shrinking_keeps_the_shape_and_never_enlarges() -> None:
    pixels = np.asarray(IMAGE)
    assert images.shrink(pixels, 32).shape == (24, 32, 3)
    assert images.shrink(pixels, 64) is pixels


def test_16_bit_grey_keeps_its_high_bytes() -> None:
    ramp_HW = np.linspace(0, 65535, 256 * 3).astype(np.uint16).reshape(3, 256)
    data = encoded(Image.fromarray(ramp_HW), "PNG")
    pixels_HWC = images.decode(data, "ramp")
    assert (pixels_HWC == (ramp_HW >> 8)[:, :, None]).all()
    assert pixels_HWC.mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2] + b"\x11\x22\x33" * 40 + b"\xff\xd9",
        lambda data: data.replace(b"JFIF\0\x01\x01", b"JFIF\0\x00\x00", 1),
        lambda data: data.replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
        lambda data: data + b"trailing" * 50,
    ],
)
def test_what_pillow_decodes_with_a_warning_has_pillows_pixels(change: Callable[[bytes], bytes]) -> None:
    data = change(encoded(picture(3, 120, 160), "JPEG"))
    expected_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.decode(data, "odd"), expected_HWC)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_jpeg_that_is_cut_off_is_refused(share: float) -> None:
    data = encoded(picture(3, 120, 160), "JPEG")
    with pytest.raises(ImageError, match="cannot be decoded"):
        images.decode(data[: int(len(data) * share)], "cut")


def test_formats_are_told_by_content() -> None:
    for kind, name in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "GIF"), ("BMP", "BMP")):
        assert images.format_of(encoded(picture(1, 8, 8), kind)[: images.HEAD_BYTES]) == name
    assert images.format_of(encoded(picture(1, 8, 8), "TIFF")) == "TIFF"
    assert images.format_of(b"\0\0\0\x18ftypheic") == "HEIF"
    assert images.format_of(b"\0\0\0\x1cftypavif") == "AVIF"
    for other in (b"", b"x" * 100, b"\0\0\0\x18ftypmp42", b"%PDF-1.4"):
        assert images.format_of(other) is None
