"""scikit-learn's 1,797 handwritten digits as class folders of PNG images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

SIDE_PX = 32
_VALIDATION_EVERY = 5
_MAX_GREY = 16
"""Largest grey value: digits are 8 x 8 counts, 0 to 16 (UCI, "Optical recognition of handwritten digits")."""


def write_digits(folder: Path) -> None:
    """Write folder/train/<digit>/*.png and folder/val/<digit>/*.png; every fifth image is for validation."""
    digits = sklearn.datasets.load_digits()
    for number, (counts_HW, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "val" if number % _VALIDATION_EVERY == 0 else "train"
        file = folder / split / str(digit) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        grey_HW = np.rint(counts_HW * (255 / _MAX_GREY)).astype(np.uint8)
        image = Image.fromarray(grey_HW).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        image.save(file)
