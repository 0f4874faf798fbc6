"""Sample ids, augmentation seeds, and the counter-based random streams made from them.

Everything random in the project is a pure function of integers: a stream is Philox4x64-10 keyed by two
64-bit words, and its counter's second word is the purpose. NumPy promises Philox's raw words and nothing
about its distributions (NEP 19), so uniforms, integers, normals and betas are made here, from the words. The
words, the seeds and the numbers of the purposes never change: golden tests hold them.
"""

from __future__ import annotations

import enum
import hashlib
import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache import portable

_MASK_64 = (1 << 64) - 1


class Purpose(enum.IntEnum):
    """What a stream is drawn for. A number is never reused."""

    CROP = 1
    FLIP = 2
    OPS = 3
    ERASE = 4
    MIX = 5
    RING = 6
    ORDER = 16
    PACK = 17


def _hash_64(domain: bytes, *fields: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8, person=domain)
    for field in fields:
        digest.update(len(field).to_bytes(8, "little"))
        digest.update(field)
    return int.from_bytes(digest.digest(), "little")


def sample_id(key: str) -> int:
    """Return the 64-bit id of a sample key."""
    return _hash_64(b"tc.sample", key.encode())


def view_seed(recipe_sha256: str, key: str, view: int) -> int:
    """Return the 64-bit augmentation seed of one view: derived, never drawn."""
    return _hash_64(b"tc.view", bytes.fromhex(recipe_sha256), key.encode(), view.to_bytes(8, "little"))


class Stream:
    """A random stream: the raw 64-bit words of one (key, purpose), turned into numbers.

    Args:
        key: Two 64-bit words; for a view, (augmentation seed, sample id).
        purpose: What the stream is for. Streams of different purposes never overlap.
        counter: Two more 64-bit words, for streams that are numbered under one key.
    """

    __slots__ = ("_ahead", "_counter", "_key", "_position")

    def __init__(self, key: tuple[int, int], purpose: Purpose, counter: tuple[int, int] = (0, 0)) -> None:
        self._key, self._counter = key, (purpose.value, *counter)
        self._position = 0
        self._ahead: list[int] = []

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next `count` raw words."""
        self._ahead = []
        words = self._words_at(self._position, count)
        self._position += count
        return words

    def octets(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the next `count` bytes, uint8: eight from each word, the lowest first."""
        return self.words(-(-count // 8)).astype("<u8").view(np.uint8)[:count]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a float64 from [low, high), from the upper 53 bits of one word."""
        return low + (self._word() >> 11) * 2.0**-53 * (high - low)

    def integer(self, stop: int) -> int:
        """Draw an integer from [0, stop), off uniform by less than stop / 2^64 (Lemire's multiplication)."""
        return (self._word() * stop) >> 64

    def normal(self) -> float:
        """Draw from the standard normal distribution (Marsaglia's polar method)."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            square = x * x + y * y
            if 0 < square < 1:
                return x * math.sqrt(-2 * portable.log(square) / square)

    def beta(self, alpha: float) -> float:
        """Draw from Beta(alpha, alpha) (Joehnk's method); of alpha above 2 most tries would be in vain."""
        while True:
            x, y = (portable.exp(portable.log(1 - self.uniform()) / alpha) for _ in range(2))
            if 0 < x + y <= 1:
                return x / (x + y)

    def _word(self) -> int:
        if not self._ahead:
            self._ahead = self._words_at(self._position, _READ_AHEAD).tolist()
            self._ahead.reverse()
        self._position += 1
        return self._ahead.pop()

    def _words_at(self, position: int, count: int) -> npt.NDArray[np.uint64]:
        block, skipped = divmod(position, _WORDS_PER_BLOCK)
        try:
            bits = _scratch.rekeyed(self._key, (block, *self._counter))
        except OverflowError as error:
            raise ValueError(
                f"key {self._key}, counter {self._counter}: not unsigned 64-bit words"
            ) from error
        return bits.random_raw(skipped + count)[skipped:]


_WORDS_PER_BLOCK = 4
_READ_AHEAD = 16


class _Scratch(threading.local):
    """One generator a thread, keyed anew for each read: the words of a new one, eight times faster."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(0)
        self._place: dict[str, tuple[int, ...]] = {}
        self._state: Any = {**self._bits.state, "state": self._place, "buffer": (0, 0, 0, 0)}

    def rekeyed(self, key: tuple[int, int], counter: tuple[int, ...]) -> np.random.Philox:
        self._place["key"], self._place["counter"] = key, counter
        self._bits.state = self._state
        return self._bits


_scratch = _Scratch()


def permutation(count: int, stream: Stream) -> npt.NDArray[np.int64]:
    """Return a uniformly random order of range(count): int64, the ranks of `count` raw words."""
    return np.argsort(stream.words(count), kind="stable")
