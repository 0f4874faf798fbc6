"""Rewriting moves no coefficient: the file stays a plain JPEG, and every decoder gives the same pixels."""

import hashlib
import io
import itertools
import random
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import encoded, picture

from benchmarks.crops import SUBSAMPLINGS, made_jpeg
from teacher_cache.jpeg.header import DHT, DRI, read_header, read_segments
from teacher_cache.jpeg.rewrite import rewrite
from teacher_cache.views import probe

IMAGE = picture(1, 150, 200)
PHOTO = np.asarray(IMAGE)


def rewritten(data: bytes) -> bytes:
    found = rewrite(data)
    assert found is not None
    return found


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_pixels_stay_and_a_second_rewriting_changes_nothing(seed: int) -> None:
    data = made_jpeg(random.Random(seed), 200)
    found = rewritten(data)
    assert np.array_equal(simplejpeg.decode_jpeg(found, "RGB"), simplejpeg.decode_jpeg(data, "RGB"))
    assert rewrite(found) == found


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_row_begins_anew(subsampling: str) -> None:
    kind = ("GRAY", PHOTO[:, :, :1].copy()) if subsampling == "Gray" else ("RGB", PHOTO)
    found = rewritten(simplejpeg.encode_jpeg(kind[1], 90, kind[0], subsampling))
    segments = read_segments(found)
    assert segments is not None
    header = read_header(found, segments)
    assert header is not None
    assert header.restart_interval > 0
    assert header.mcus_per_row % header.restart_interval == 0
    assert 16 <= header.restart_interval * header.mcu_width <= 100


@pytest.mark.parametrize("seed", range(12))
def test_jpegtran_makes_the_same_file_of_both(seed: int) -> None:
    jpegtran = shutil.which("jpegtran")
    if jpegtran is None:
        pytest.skip("jpegtran is not installed (Debian: libjpeg-turbo-progs)")
    data = made_jpeg(random.Random(seed), 150)

    def normal(image: bytes) -> bytes:
        return subprocess.run([jpegtran, "-copy", "all"], input=image, capture_output=True, check=True).stdout

    assert normal(rewritten(data)) == normal(data)


def test_other_decoders_open_it() -> None:
    data = encoded(IMAGE, "JPEG", quality=90)
    found = rewritten(data)
    array, tensor = np.frombuffer(found, np.uint8), torch.frombuffer(bytearray(found), dtype=torch.uint8)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found))), expected)
    assert np.array_equal(torchvision.io.decode_jpeg(tensor).permute(1, 2, 0).numpy(), expected)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.imdecode(array, cv2.IMREAD_COLOR), theirs)


def test_everything_but_tables_and_interval_is_kept() -> None:
    data = encoded(IMAGE, "JPEG", exif=b"Exif\0\0MM\0*", comment=b"mine") + b"what follows the picture"
    found = rewritten(data)

    def kept(image: bytes) -> list[bytes]:
        segments = read_segments(image)
        assert segments is not None
        bounds = [*segments.starts, segments.scan_start]
        pairs = itertools.pairwise(bounds)
        return [image[start:stop] for start, stop in pairs if image[start + 1] not in (DHT, DRI)]

    assert kept(found) == kept(data)
    assert found.endswith(b"\xff\xd9what follows the picture")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(IMAGE, "JPEG", progressive=True), id="progressive"),
        pytest.param(encoded(IMAGE.convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encoded(IMAGE, "JPEG")[:-200], id="cut short"),
        pytest.param(encoded(IMAGE, "JPEG").replace(b"\xff\xda", b"\xff\xdb", 1), id="no scan"),
        pytest.param(encoded(IMAGE, "PNG"), id="PNG"),
        pytest.param(b"\xff\xd8", id="two bytes"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_others_are_left_as_they_are(data: bytes) -> None:
    assert rewrite(data) is None


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_a_header_that_lies_about_the_size_is_not_believed(height: int, width: int, cut_bytes: int) -> None:
    data = bytearray(encoded(IMAGE, "JPEG"))
    segments = read_segments(bytes(data))
    assert segments is not None
    at = segments.frame_at + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    blocks = tuple(-(-side // 16) for side in (height, width))
    found = rewrite(bytes(data[: len(data) - cut_bytes]))
    assert (found is not None) == (blocks == (10, 13) and cut_bytes == 0)


def test_the_bytes_are_promised_to_stay() -> None:
    probes = Path(probe.__file__).parent / "probe_images"
    digests = {
        name: hashlib.sha256(rewritten((probes / name).read_bytes())).hexdigest()[:16]
        for name in ("color_420.jpg", "color_444.jpg", "grey.jpg", "large.jpg")
    }
    assert digests == {
        "color_420.jpg": "5ce5b1babff79fbc",
        "color_444.jpg": "109e1dcb3d9631d8",
        "grey.jpg": "bb7f0a4608c35cbc",
        "large.jpg": "8fb0a685b1b28a35",
    }
