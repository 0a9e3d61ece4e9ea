"""Named streams of random numbers, so that every random choice follows from one seed.

Nothing random is carried from step to step. A resumed run draws what an uninterrupted run draws.
"""

from functools import lru_cache
from hashlib import blake2b


def stream(seed: int, name: str, *further: str | int) -> int:
    """The seed of a stream of a seed. Streams of different names are independent.

    A stream is named by words and numbers, for example ``stream(seed, "view", 1)``. To add a stream
    changes no other stream. The result is the same on every platform and in every version of
    Python.

    Each part of the name makes one step: x becomes the output number k of the generator SplitMix64
    (Steele, Lea and Flood, OOPSLA 2014) that starts in state x. For a number, k is the number
    modulo 2^64; for a word, k is its hash (BLAKE2b with 8 bytes, big endian). At the end the last
    bit is dropped, so that the result fits into a signed integer of 64 bits.

    Args:
        seed: an integer, taken modulo 2^64.
        name: the purpose of the stream.
        further: what tells it from other streams of that purpose, such as the number of a step.

    Returns:
        A seed for torch or NumPy, from 0 to 2^63 - 1.
    """
    x = seed
    for part in (name, *further):
        x = _splitmix64(x, _hash(part) if isinstance(part, str) else part)
    return x >> 1


def _splitmix64(state: int, k: int) -> int:
    """Output number ``k``, counted from 0, of the generator that starts in ``state``."""
    x = (state + (k + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@lru_cache
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
