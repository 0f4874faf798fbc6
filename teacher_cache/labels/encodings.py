"""Encodings in which a label's relative logits and tail mass are stored (docs/archive-format.md).

q8, eight bits a value:
    dq    u8    q = cumsum(dq) along the last axis;  logit_j - logit_0 = -q_j / 16
    tail  u8    probability outside the top k = min(exp(-tail / 16), 1 - k / classes); 255 means 0
float32, exact, for research:
    rel   f4    logit_j - logit_0
    tail  f4    probability outside the top k

The command line reads the names below to make flags, so NumPy is imported only to encode and decode.

Shapes: B views, K classes kept.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

VALUE_STEP = 1 / 16
"""Nats per step of q8: a finer step gains nothing, a coarser one costs fidelity (docs/labels.md)."""

NO_TAIL = 255
"""Tail of q8 that means a tail mass of 0."""


class Encoding(abc.ABC):
    """Encoding that stores relative logits and tail mass as two arrays of one type.

    Attributes:
        array: Name of the array of relative logits in an archive.
        item: Type of both arrays' items, by NumPy's short name.
        fill: Value of an absent item.
        step: Nats between neighbouring stored values; 0 where values are exact.
    """

    array: ClassVar[str]
    item: ClassVar[str]
    fill: ClassVar[float]
    step: ClassVar[float]

    @property
    def dtype(self) -> np.dtype:
        """Type of both arrays' items."""
        import numpy as np

        return np.dtype(self.item)

    @abc.abstractmethod
    def encode(self, relative_BK: Floats, tail_B: Floats) -> tuple[npt.NDArray, npt.NDArray]:
        """Return the stored form of relative logits (B, K) and tail masses (B,)."""

    @abc.abstractmethod
    def decode(self, values_BK: npt.NDArray, tail_B: npt.NDArray, num_classes: int) -> tuple[Floats, Floats]:
        """Return relative logits (B, K) and tail masses (B,) from their stored form."""


class EightBits(Encoding):
    """Encoding of gaps between neighbours in rank, and of the tail's logarithm, in steps of 1/16 nat.

    Each gap is rounded relative to the decoded earlier ranks, so that errors do not add up. A gap above 15.9
    nats, a probability ratio under 1.2e-7, is cut to 15.9.
    """

    array = "dq"
    item = "u1"
    fill = 255
    step = VALUE_STEP

    def encode(self, relative_BK: Floats, tail_B: Floats) -> tuple[npt.NDArray, npt.NDArray]:
        """Return dq (B, K) and tail (B,), both uint8; see Encoding."""
        import numpy as np

        target_BK = np.rint(relative_BK.astype(np.float64) / -self.step)
        dq_BK = np.empty(target_BK.shape, self.dtype)
        reached_B = np.zeros(target_BK.shape[0])
        for rank in range(target_BK.shape[1]):
            gap_B = np.clip(target_BK[:, rank] - reached_B, 0, 255)
            dq_BK[:, rank] = gap_B
            reached_B += gap_B
        with np.errstate(divide="ignore"):
            steps_B = np.rint(-np.log(tail_B.astype(np.float64)) / self.step)
        return dq_BK, np.clip(steps_B, 0, NO_TAIL).astype(self.dtype)

    def decode(self, values_BK: npt.NDArray, tail_B: npt.NDArray, num_classes: int) -> tuple[Floats, Floats]:
        """Return relative logits and tail masses; see Encoding.

        A tail mass is capped at 1 - K / C, that of a uniform distribution; rounding could raise it up to 1.
        """
        import numpy as np

        q_BK = np.cumsum(values_BK, axis=1, dtype=np.int32)
        most = np.float32(1 - values_BK.shape[1] / num_classes)
        return q_BK.astype(np.float32) * np.float32(-self.step), np.minimum(_tail_masses()[tail_B], most)


@functools.cache
def _tail_masses() -> Floats:
    """Return the tail mass that each of q8's 256 stored values means, float32 (256,)."""
    import numpy as np

    return np.append(np.exp(np.arange(NO_TAIL) * -VALUE_STEP), 0).astype(np.float32)


class Float32(Encoding):
    """Encoding of exact relative logits and tail masses."""

    array = "rel"
    item = "<f4"
    fill = math.nan
    step = 0.0

    def encode(self, relative_BK: Floats, tail_B: Floats) -> tuple[npt.NDArray, npt.NDArray]:
        """Return both arrays in little-endian order; see Encoding."""
        return relative_BK.astype(self.dtype), tail_B.astype(self.dtype)

    def decode(self, values_BK: npt.NDArray, tail_B: npt.NDArray, num_classes: int) -> tuple[Floats, Floats]:
        """Return both arrays in the machine's order; see Encoding."""
        del num_classes
        return values_BK.astype("f4"), tail_B.astype("f4")


ENCODINGS: Mapping[str, Encoding] = {"q8": EightBits(), "float32": Float32()}
"""Encodings by the name that `--values` and an archive's spec give."""

AFFINITY_VALUES = "q8"
"""Encoding of every class affinity."""

if TYPE_CHECKING:
    Values = str
else:
    Values = Literal[tuple(ENCODINGS)]
