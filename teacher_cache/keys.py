"""Sample ids, augmentation seeds, and the counter-based random streams made from them.

Everything random in the project is a pure function of integers: a stream is Philox4x64-10 keyed by two
64-bit words, and its counter's second word is the purpose. NumPy promises Philox's raw words and nothing
about its distributions (NEP 19), so uniforms and integers are made here, from the words. The words, the
seeds and the numbers of the purposes never change: golden tests hold them.
"""

from __future__ import annotations

import enum
import hashlib

import numpy as np
import numpy.typing as npt

_MASK_64 = (1 << 64) - 1


class Purpose(enum.IntEnum):
    """What a stream is drawn for. A number is never reused; 3-5 are kept for ops, erasing and mixing."""

    CROP = 1
    FLIP = 2
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

    def __init__(self, key: tuple[int, int], purpose: Purpose, counter: tuple[int, int] = (0, 0)) -> None:
        for name, words in (("key", key), ("counter", counter)):
            if not all(0 <= word <= _MASK_64 for word in words):
                raise ValueError(f"{name} {words} is not two unsigned 64-bit words")
        self._bits = np.random.Philox(
            key=np.array(key, np.uint64), counter=np.array([0, int(purpose), *counter], np.uint64)
        )

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next `count` raw words."""
        return self._bits.random_raw(count)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a float64 from [low, high), from the upper 53 bits of one word."""
        unit = (int(self._bits.random_raw()) >> 11) * 2.0**-53
        return low + unit * (high - low)

    def integer(self, stop: int) -> int:
        """Draw an integer from [0, stop), off uniform by less than stop / 2^64 (Lemire's multiplication)."""
        return (int(self._bits.random_raw()) * stop) >> 64


def permutation(count: int, stream: Stream) -> npt.NDArray[np.int64]:
    """Return a uniformly random order of range(count): int64, the ranks of `count` raw words."""
    return np.argsort(stream.words(count), kind="stable")
