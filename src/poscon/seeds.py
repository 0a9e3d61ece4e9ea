"""Seeds derived from seeds, so that every random choice is a function of one number."""


def mix_seed(seed: int, stream: int) -> int:
    """The seed of one of many independent streams of a seed (splitmix64, Steele et al. 2014).

    Training step k draws from stream k of the run's seed. Nothing random is carried from step to
    step, so a resumed run draws what an uninterrupted one would have drawn.
    """
    x = (seed + (stream + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return (x ^ (x >> 31)) >> 1
