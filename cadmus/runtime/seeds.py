"""Random generators, one for each purpose: the same seed never gives two purposes the same draws."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from cadmus.runtime.checks import check_seed_value


def generator(purpose: str, seed: int, *numbers: int) -> np.random.Generator:
    """The generator for `purpose` under `seed`.

    `numbers`, as many for one purpose at every call, distinguish its uses: the index of a shard, for instance. Raises
    ValueError for a seed outside 0..2^63 - 1: one that other generators refuse is no seed anywhere.
    """
    check_seed_value(seed)
    return np.random.default_rng([crc32(purpose.encode()), seed, *numbers])
