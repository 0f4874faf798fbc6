"""Crops cut out of JPEGs as bytes, compared with the same crops of a whole decode: counts, not times.

    python -m benchmarks.crops --images FOLDER

Three arms. Made JPEGs of all sizes, subsamplings and kinds of encoder, and the images of a folder, are
rewritten for crops; every crop must be equal to that of the original decoded whole by simplejpeg. Rewritten
JPEGs with random bytes changed must give the pixels of the same bytes decoded whole, or an error.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import simplejpeg
from msgspec import Meta
from PIL import Image, ImageFile
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.machine import environment
from teacher_cache import images
from teacher_cache.errors import ImageError
from teacher_cache.jpeg.rewrite import rewrite
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags

SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")
_FLIPPED_PX = 160
_PILLOW_BUFFER_BYTES = 1 << 23
"""Room for an encoded image: Pillow fails on noise of the best quality with less."""


@dataclasses.dataclass(frozen=True)
class CropsConfig(Flags):
    """Compare crops that are cut out of JPEGs with crops of whole decodes."""

    made: Annotated[int, Meta(ge=0)] = 5000
    """JPEGs to make, of all sizes up to --max-side."""
    max_side: Annotated[int, Meta(ge=1)] = 700
    """Largest side of a made JPEG in pixels."""
    crops: Annotated[int, Meta(ge=1)] = 20
    """Random crops of each JPEG."""
    flips: Annotated[int, Meta(ge=0)] = 20000
    """Rewritten JPEGs with changed bytes."""
    images: str | None = None
    """Folder of further images, searched recursively."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of everything."""
    json: str | None = None
    """File for the result."""


def made_jpeg(rng: random.Random, max_side_px: int) -> bytes:
    """Return a JPEG of random size, content, subsampling, quality, tables and restart interval."""
    height, width = rng.randint(1, max_side_px), rng.randint(1, max_side_px)
    pixels_HWC = _picture(rng, height, width)
    quality = rng.choice((1, 10, 30, 50, 75, 90, 95, 100))
    if rng.random() < 0.5:
        kind = rng.choice(SUBSAMPLINGS)
        if kind == "Gray":
            return simplejpeg.encode_jpeg(pixels_HWC[:, :, :1].copy(), quality, "GRAY", "Gray")
        return simplejpeg.encode_jpeg(pixels_HWC, quality, "RGB", kind)
    image = Image.fromarray(pixels_HWC)
    options: dict[str, object] = {"quality": quality, "optimize": rng.random() < 0.5}
    if rng.random() < 0.3:
        image = image.convert("L")
    else:
        options["subsampling"] = rng.choice((0, 1, 2))
    if rng.random() < 0.5:
        options[rng.choice(("restart_marker_blocks", "restart_marker_rows"))] = rng.randint(1, 9)
    if rng.random() < 0.2:
        options["exif"] = b"Exif\0\0" + rng.randbytes(rng.randint(0, 3000))
    out = io.BytesIO()
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, _PILLOW_BUFFER_BYTES)
    image.save(out, "JPEG", **options)
    return out.getvalue()


def _picture(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Return noise, or a smooth picture with a little noise: uint8 (height, width, 3)."""
    noise = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.3:
        return noise.integers(0, 256, (height, width, 3), np.uint8)
    coarse = Image.fromarray(noise.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + noise.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def random_box(rng: random.Random, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box inside a picture."""
    top, left = rng.randrange(height), rng.randrange(width)
    return top, left, rng.randint(1, height - top), rng.randint(1, width - left)


def check_crops(data: bytes, rng: random.Random, count: int) -> Iterator[str]:
    """Yield what became of each crop of a JPEG after rewriting; "OTHER PIXELS" is a failure."""
    rewritten = rewrite(data)
    # what is not rewritten, such as CMYK, simplejpeg may decode in another way than this program
    whole_HWC = simplejpeg.decode_jpeg(data, "RGB") if rewritten else images.decode(data, "whole")
    picture = images.Picture(rewritten or data, "crop")
    for _ in range(count):
        box = random_box(rng, *whole_HWC.shape[:2])
        if not _is_equal(picture.crop(*box), box, whole_HWC):
            yield "OTHER PIXELS"
        elif rewritten is None:
            yield "equal, not rewritten"
        else:
            is_cut = picture.crop(*box).pixels_HWC.shape != whole_HWC.shape
            yield "equal, cut" if is_cut else "equal, decoded whole"


def _is_equal(crop: images.Crop, box: tuple[int, int, int, int], whole_HWC: np.ndarray) -> bool:
    top, left, height, width = box
    there_HWC = crop.pixels_HWC[top - crop.top :, left - crop.left :][:height, :width]
    return np.array_equal(there_HWC, whole_HWC[top : top + height, left : left + width])


def check_flip(data: bytes, rng: random.Random) -> str:
    """Return what became of a crop of a rewritten JPEG with changed bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(changed))
        how = rng.randrange(4)
        if how == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[place : place + 2] = rng.choice((b"\xff\xd0", b"\xff\xd5", b"\xff\xd9", b"\xff\x00"))
        elif how == 2:
            markers = [at for at in range(len(changed) - 1) if changed[at : at + 2] > b"\xff\xcf"]
            at = rng.choice(markers or [0])
            changed[at : at + 2] = rng.choice((b"", b"\xff\xd3", changed[at : at + 2] * 2))
        else:
            del changed[place : place + rng.randint(1, 40)]
    return compare(bytes(changed), rng)


def compare(data: bytes, rng: random.Random) -> str:
    """Return whether a random crop of bytes is that of the same bytes decoded whole."""
    try:
        picture = images.Picture(data, "changed")
        box = random_box(rng, picture.height, picture.width)
        crop = picture.crop(*box)
    except ImageError:
        return "an error"
    is_cut = crop.pixels_HWC.shape[:2] != (picture.height, picture.width)
    try:
        whole_HWC = images.decode(data, "changed")
    except ImageError:
        return "PIXELS OF A FILE THAT IS REFUSED"
    if whole_HWC.shape[:2] != (picture.height, picture.width) or not _is_equal(crop, box, whole_HWC):
        return "OTHER PIXELS"
    return "equal, cut" if is_cut else "equal, decoded whole"


def _benchmark(config: CropsConfig) -> int:
    rng = random.Random(config.seed)
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for _ in range(config.made):
        found["made JPEGs"].update(check_crops(made_jpeg(rng, config.max_side), rng, config.crops))
    files = sorted(file for file in Path(config.images).rglob("*") if file.is_file()) if config.images else []
    for file in files:
        data = file.read_bytes()
        if images.format_of(data[: images.HEAD_BYTES]) in images.EXTENSIONS:
            found["images of the folder"].update(check_crops(data, rng, config.crops))
    for _ in range(config.flips):
        rewritten = rewrite(made_jpeg(rng, _FLIPPED_PX))
        if rewritten is not None:
            found["changed bytes"][check_flip(rewritten, rng)] += 1
    table = Table("arm", "outcome", "crops")
    for arm, counts in found.items():
        for outcome, count in sorted(counts.items()):
            table.add_row(arm, outcome, f"{count:,}")
    Console(width=110).print(table)
    about = {
        "environment": environment(("simplejpeg", "pillow", "numba")),
        "config": dataclasses.asdict(config),
    }
    write_json(config.json, {"benchmark": "crops", **about, "outcomes": found})
    return int(any(outcome.isupper() for counts in found.values() for outcome in counts))


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.crops", Command(CropsConfig, _benchmark), sys.argv[1:]))
