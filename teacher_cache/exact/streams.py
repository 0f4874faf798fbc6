"""Sample ids, augmentation seeds, and the counter-based random streams made from them.

Everything random in the project is a pure function of integers: a stream is Philox4x64-10 keyed by two
64-bit words, and the second word of its counter is the purpose. NumPy guarantees Philox's raw words but not
its distributions (NEP 19), so uniforms, integers, normals and betas are made here, from the words. The words,
the seeds and the numbers of the purposes never change: golden tests check them.
"""

from __future__ import annotations

import enum
import hashlib
import math

import numpy as np
import numpy.typing as npt

from teacher_cache.exact import portable
from teacher_cache.exact.compiled import compiled

_MASK_64 = (1 << 64) - 1


class Purpose(enum.IntEnum):
    """Purpose of a stream; a purpose's number is never reused."""

    CROP = 1
    FLIP = 2
    OPS = 3
    ERASE = 4
    MIX = 5
    RING = 6
    ORDER = 16
    PACK = 17
    DROP = 18


def _hash_64(domain: bytes, *fields: bytes) -> int:
    prefixed = b"".join([len(field).to_bytes(8, "little") + field for field in fields])
    return int.from_bytes(hashlib.blake2b(prefixed, digest_size=8, person=domain).digest(), "little")


def sample_id(key: str) -> int:
    """Return the 64-bit id of a sample key."""
    return _hash_64(b"tc.sample", key.encode())


def view_seed(recipe_sha256: str, key: str, view: int) -> int:
    """Return the 64-bit augmentation seed of one view, a hash of the recipe, the sample key and the view."""
    return _hash_64(b"tc.view", bytes.fromhex(recipe_sha256), key.encode(), view.to_bytes(8, "little"))


class RandomStream:
    """Random stream: the raw 64-bit words of one (key, purpose), turned into numbers.

    Args:
        key: Two 64-bit words; for a view, (augmentation seed, sample id).
        purpose: Purpose of the stream; streams of different purposes never overlap.
        counter: Two more 64-bit words, for several streams under one key.
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
        """Return the next `count` bytes, uint8: eight from each word, lowest first."""
        return self.words(-(-count // 8)).astype("<u8").view(np.uint8)[:count]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a float64 from [low, high), from the upper 53 bits of one word."""
        return low + (self._word() >> 11) * 2.0**-53 * (high - low)

    def integer(self, stop: int) -> int:
        """Draw an integer from [0, stop), uniform to within stop / 2^64 (Lemire's multiplication)."""
        return (self._word() * stop) >> 64

    def normal(self) -> float:
        """Draw from the standard normal distribution (Marsaglia's polar method)."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            square = x * x + y * y
            if 0 < square < 1:
                return x * math.sqrt(-2 * portable.log(square) / square)

    def beta(self, alpha: float) -> float:
        """Draw from Beta(alpha, alpha) (Joehnk's method, which rejects most tries for alpha above 2)."""
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
        words = np.empty(-(-(skipped + count) // _WORDS_PER_BLOCK) * _WORDS_PER_BLOCK, np.uint64)
        try:
            _philox(np.array((*self._key, block, *self._counter), np.uint64), words)
        except OverflowError as error:
            raise ValueError(
                f"key {self._key}, counter {self._counter}: not unsigned 64-bit words"
            ) from error
        return words[skipped : skipped + count]


_WORDS_PER_BLOCK = 4
_READ_AHEAD = 8
_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
_LOW, _32, _ONE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(1)


@compiled
def _philox(key_and_counter_6: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
    """Fill `out` with the words of Philox4x64-10 from a block on, as numpy.random.Philox returns them.

    Creating a NumPy generator takes longer than all other sampling of a view. As in NumPy, the counter
    is increased by one before each block. Constants and rounds: Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", SC 2011.
    """
    first_0, first_1, counter, c1, c2, c3 = key_and_counter_6
    for start in range(0, len(out), _WORDS_PER_BLOCK):
        counter += _ONE
        x0, x1, x2, x3 = counter, c1, c2, c3
        k0, k1 = first_0, first_1
        for _ in range(_ROUNDS):
            high_0, high_2 = _high_product(_MULTIPLIERS[0], x0), _high_product(_MULTIPLIERS[1], x2)
            x0, x1, x2, x3 = high_2 ^ x1 ^ k0, _MULTIPLIERS[1] * x2, high_0 ^ x3 ^ k1, _MULTIPLIERS[0] * x0
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
        out[start], out[start + 1], out[start + 2], out[start + 3] = x0, x1, x2, x3


@compiled
def _high_product(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return the upper 64 bits of a 128-bit product, from four products of 32-bit halves."""
    low = (a & _LOW) * (b & _LOW)
    cross_1, cross_2 = (a & _LOW) * (b >> _32), (a >> _32) * (b & _LOW)
    middle = (low >> _32) + (cross_1 & _LOW) + (cross_2 & _LOW)
    return (a >> _32) * (b >> _32) + (cross_1 >> _32) + (cross_2 >> _32) + (middle >> _32)


def permutation(count: int, stream: RandomStream) -> npt.NDArray[np.int64]:
    """Return a uniformly random order of range(count), int64: the ranks of `count` raw words."""
    return np.argsort(stream.words(count), kind="stable")
