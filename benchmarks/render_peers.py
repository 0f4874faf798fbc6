"""Other libraries' transforms: JPEG bytes -> uint8 pixels of a random crop, or of DeiT's whole recipe.

Each function takes a view's size, and returns a function from image bytes to pixels that runs on one thread.
timm is the baseline. A peer that is not installed is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, v2

Render = Callable[[bytes], object]
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
FILL = (124, 116, 104)


def timm_peer(img_size: int, deit: bool) -> Render:
    """Return timm's create_transform on Pillow, uint8 out for its prefetcher; 0-bit posterize is black."""
    posterize = auto_augment.posterize
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = lambda image, bits, **kwargs: (
        posterize(image, bits, **kwargs) if bits else Image.new("RGB", image.size)
    )
    transform = create_transform(
        img_size,
        is_training=True,
        interpolation="bicubic",
        color_jitter=None,  # type: ignore[arg-type]  # timm's code allows None, unlike its type hint
        auto_augment=RAND_AUGMENT if deit else None,
        use_prefetcher=True,
    )
    return lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB"))


def torchvision_peer(img_size: int, deit: bool) -> Render:
    """Return torchvision's own decoder and v2 transforms on uint8 tensors; its RandAugment has 14 ops."""
    bicubic = InterpolationMode.BICUBIC
    transforms: list[torch.nn.Module] = [
        v2.RandomResizedCrop(img_size, interpolation=bicubic, antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if deit:
        augment = v2.RandAugment(1, 9, interpolation=InterpolationMode.BILINEAR, fill=list(FILL))
        transforms += [v2.RandomApply([augment], p=0.5), v2.RandomApply([augment], p=0.5)]
    transform = v2.Compose(transforms)

    def render(data: bytes) -> object:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return transform(decode_jpeg(encoded, mode=ImageReadMode.RGB))

    return render


def opencv_peer(img_size: int, deit: bool) -> Render:
    """Return OpenCV's decoder, area or cubic resize, look-up tables and warpAffine; timm's boxes and ops."""
    cv2: Any = importlib.import_module("cv2")

    cv2.setNumThreads(1)
    values = np.arange(256)
    crop = RandomResizedCropAndInterpolation(img_size)

    def look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
        return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))

    def blend(low: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
        return cv2.addWeighted(image, factor, low, 1 - factor, 0)

    def grey(image: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)

    def warp(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            image, np.array(matrix), (img_size, img_size), flags=flags, borderValue=[float(v) for v in FILL]
        )

    def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
        middle = (img_size / 2, img_size / 2)
        return warp(image, cv2.getRotationMatrix2D(middle, -degrees, 1.0).tolist())

    def stretch(image: np.ndarray) -> np.ndarray:
        low, high = image.min((0, 1)), image.max((0, 1))
        tables = (values[:, None] - low) * 255 / np.maximum(high.astype(int) - low, 1)
        return cv2.LUT(image, np.clip(tables, 0, 255).astype(np.uint8)[None])

    def augment(image: np.ndarray) -> np.ndarray:
        share = min(max(random.gauss(9, 0.5), 0), 10) / 10
        signed = share if random.random() < 0.5 else -share
        ops: list[Callable[[], np.ndarray]] = [
            lambda: stretch(image),
            lambda: cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)]),
            lambda: look_up(image, 255 - values),
            lambda: rotate(image, 30 * signed),
            lambda: look_up(image, values & (0xFF00 >> (4 - int(share * 4)))),
            lambda: look_up(image, np.where(values < 256 - int(share * 256), values, 255 - values)),
            lambda: look_up(image, np.where(values < 128, values + int(share * 110), values)),
            lambda: blend(grey(image), image, 1 + 0.9 * signed),
            lambda: look_up(
                image, values + 0.9 * signed * (values - np.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))
            ),
            lambda: look_up(image, values * (1 + 0.9 * signed)),
            lambda: blend(cv2.blur(image, (3, 3)), image, 1 + 0.9 * signed),
            lambda: warp(image, [[1, 0.3 * signed, 0], [0, 1, 0]]),
            lambda: warp(image, [[1, 0, 0], [0.3 * signed, 1, 0]]),
            lambda: warp(image, [[1, 0, 0.45 * signed * img_size], [0, 1, 0]]),
            lambda: warp(image, [[1, 0, 0], [0, 1, 0.45 * signed * img_size]]),
        ]  # fmt: skip
        return random.choice(ops)()

    def render(data: bytes) -> object:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        top, left, height, width = _box(crop, *image.shape[:2])
        box = image[top : top + height, left : left + width]
        method = cv2.INTER_AREA if height * width > img_size**2 else cv2.INTER_CUBIC
        image = cv2.resize(box, (img_size, img_size), interpolation=method)
        if random.random() < 0.5:
            image = cv2.flip(image, 1)
        for _ in range(2 if deit else 0):
            if random.random() < 0.5:
                image = augment(image)
        return image

    return render


def _box(crop: RandomResizedCropAndInterpolation, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw a crop box as timm's get_params does, from the image's size alone."""
    for _ in range(10):
        area = random.uniform(*crop.scale) * height * width
        ratio = math.exp(random.uniform(math.log(crop.ratio[0]), math.log(crop.ratio[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if box_width <= width and box_height <= height:
            return (
                random.randint(0, height - box_height),
                random.randint(0, width - box_width),
                box_height,
                box_width,
            )
    return 0, 0, height, width


def dali_peer(img_size: int, deit: bool) -> Render:
    """Return NVIDIA DALI's CPU operators, one image an iteration: crop decoder, cubic resize, RandAugment.

    DALI's RandAugment always applies one op; the others apply two, each half the time.
    """
    dali: Any = importlib.import_module("nvidia.dali")
    rand_augment: Any = importlib.import_module("nvidia.dali.auto_aug.rand_augment").rand_augment
    fn, types = dali.fn, dali.types

    @dali.pipeline_def(
        batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, enable_conditionals=True
    )
    def pipeline() -> Any:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        images = fn.decoders.image_random_crop(encoded, device="cpu", output_type=types.RGB)
        images = fn.resize(images, size=[img_size, img_size], interp_type=types.INTERP_CUBIC)
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        return rand_augment(images, n=1, m=9, fill_value=128) if deit else images

    built = pipeline()
    built.build()

    def render(data: bytes) -> object:
        built.feed_input("encoded", [np.frombuffer(data, np.uint8)])
        return built.run()

    return render


def peers() -> dict[str, Callable[[int, bool], Render]]:
    """Return the peers that are installed, timm first."""
    found: dict[str, Callable[[int, bool], Render]] = {"timm": timm_peer, "torchvision v2": torchvision_peer}
    if importlib.util.find_spec("cv2"):
        found["OpenCV"] = opencv_peer
    if importlib.util.find_spec("nvidia.dali"):
        found["DALI CPU"] = dali_peer
    return found
