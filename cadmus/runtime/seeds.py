"""Random generators, one for each purpose: the same seed never gives two purposes the same draws."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def generator(purpose: str, seed: int, *numbers: int) -> np.random.Generator:
    """The generator for `purpose` under `seed`.

    `numbers`, as many for one purpose at every call, distinguish its uses: the index of a shard, for instance.
    """
    return np.random.default_rng([crc32(purpose.encode()), seed, *numbers])
