"""A crop that was cut out as bytes has the pixels of a whole decode, or it is decoded whole."""

import random

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from support import encoded, picture

from benchmarks.crops import SUBSAMPLINGS, check_crops, check_flip, compare, made_jpeg
from teacher_cache import images
from teacher_cache.jpeg.cut import cut
from teacher_cache.jpeg.header import Header, read_header, read_segments
from teacher_cache.jpeg.rewrite import rewrite

IMAGE = picture(1, 150, 200)
PHOTO = np.asarray(IMAGE)


def header_of(data: bytes) -> Header:
    segments = read_segments(data)
    assert segments is not None
    header = read_header(data, segments)
    assert header is not None
    return header


def photo(subsampling: str = "420") -> bytes:
    found = rewrite(simplejpeg.encode_jpeg(PHOTO, 90, "RGB", subsampling))
    assert found is not None
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([9, 40, 300]))
@settings(max_examples=60, deadline=None)
def test_crops_of_any_jpeg(seed: int, max_side_px: int) -> None:
    rng = random.Random(seed)
    assert "OTHER PIXELS" not in set(check_crops(made_jpeg(rng, max_side_px), rng, 10))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_changed_bytes_never_give_other_pixels_in_silence(seed: int) -> None:
    rng = random.Random(seed)
    data = rewrite(made_jpeg(rng, 100))
    assert data is not None
    assert not check_flip(data, rng).isupper()


@pytest.mark.parametrize("subsampling", [kind for kind in SUBSAMPLINGS if kind != "Gray"])
def test_every_pixel_at_every_edge_of_a_piece(subsampling: str) -> None:
    data, whole_HWC = photo(subsampling), simplejpeg.decode_jpeg(photo(subsampling), "RGB")
    picture_of = images.Picture(data, "photo")
    for left in range(0, 199, 3):
        crop = picture_of.crop(70, left, 9, 2)
        there_HWC = crop.pixels_HWC[70 - crop.top : 79 - crop.top, left - crop.left : left + 2 - crop.left]
        assert np.array_equal(there_HWC, whole_HWC[70:79, left : left + 2])
        assert crop.pixels_HWC.shape[1] < 200


def test_a_cut_is_small_and_a_large_one_is_not_made() -> None:
    data = photo()
    header = header_of(data)
    small = cut(data, header, 40, 60, 30, 30)
    assert small is not None
    assert len(small.data) < len(data) / 3
    assert cut(data, header, 0, 0, 150, 200, largest_share=0.9) is None


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS[:3])
def test_without_markers_nothing_is_cut(subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(PHOTO, 90, "RGB", subsampling)
    assert cut(data, header_of(data), 0, 0, 10, 10) is None
    assert images.Picture(data, "photo").crop(0, 0, 10, 10).pixels_HWC.shape == PHOTO.shape


def markers(data: bytes) -> list[int]:
    return [at for at in range(len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]


def without_marker(data: bytes) -> bytes:
    return data[: markers(data)[5]] + data[markers(data)[5] + 2 :]


def marker_twice(data: bytes) -> bytes:
    at = markers(data)[5]
    return data[:at] + data[at : at + 2] + data[at:]


def out_of_turn(data: bytes) -> bytes:
    first, second = markers(data)[3:5]
    changed = bytearray(data)
    changed[first : first + 2], changed[second : second + 2] = (
        data[second : second + 2],
        data[first : first + 2],
    )
    return bytes(changed)


def taller(data: bytes) -> bytes:
    at = header_of(data).size_at
    return data[:at] + (1500).to_bytes(2, "big") + data[at + 2 :]


def wider(data: bytes) -> bytes:
    at = header_of(data).size_at
    return data[: at + 2] + (1800).to_bytes(2, "big") + data[at + 4 :]


def other_interval(data: bytes) -> bytes:
    at = data.index(b"\xff\xdd\0\4")
    return data[: at + 4] + (13).to_bytes(2, "big") + data[at + 6 :]


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "change", [without_marker, marker_twice, out_of_turn, taller, wider, other_interval, cut_short]
)
def test_a_lying_jpeg_is_refused_or_decoded_whole(change) -> None:
    data = change(photo())
    header = header_of(data)
    assert cut(data, header, 0, 0, 30, 30) is None
    for seed in range(5):
        assert compare(data, random.Random(seed)) in ("an error", "equal, decoded whole")


def test_the_header_of_a_picture_with_many_pixels_is_refused_before_it_is_decoded() -> None:
    data = bytearray(photo())
    at = header_of(bytes(data)).size_at
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(images.ImageError, match="decompression bomb"):
        images.Picture(bytes(data), "bomb")


def test_a_png_is_decoded_whole() -> None:
    crop = images.Picture(encoded(IMAGE, "PNG"), "png").crop(10, 10, 5, 5)
    assert np.array_equal(crop.pixels_HWC, PHOTO)
    assert (crop.top, crop.left) == (0, 0)
