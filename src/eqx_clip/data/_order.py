"""Which examples a step draws: a pure function of the seed and the step, without a list of them."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64


Indices = Int64[np.ndarray, " n"]

_ROUNDS = 6  # of the Feistel network; four are pseudorandom (Luby and Rackoff 1988)
BLOCK = 1024  # neighbours that block shuffling keeps together
WINDOW = 64  # blocks that it mixes


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of the examples of one source or of a mixture, epoch after epoch.

    An epoch draws `round(factor * size)` examples of each part. What is drawn goes on where the
    epoch before stopped, so that over time every example of a part is drawn equally often: each
    once an epoch where the factor is 1.

    - `sizes`: the number of examples of each part; an index counts through them all.
    - `factors`: how often an epoch draws each part.
    - `seed`, `shuffle`: False keeps the order of the source, True shuffles all, "blocks" shuffles
      blocks of 1,024 neighbours and mixes 64 of them, for storage that is slow at random.
    """

    sizes: tuple[int, ...]
    factors: tuple[float, ...]
    seed: int
    shuffle: bool | str

    @functools.cached_property
    def draws(self) -> tuple[int, ...]:
        """How many examples of each part an epoch draws."""
        return tuple(
            round(factor * size) for factor, size in zip(self.factors, self.sizes, strict=True)
        )

    @property
    def epoch_size(self) -> int:
        return sum(self.draws)

    def indices(self, epoch: int, start: int, stop: int) -> Indices:
        """What positions `start` to `stop` of an epoch draw."""
        positions = np.arange(start, stop)
        if self.shuffle:
            positions = self._shuffled(positions, self.epoch_size, (0, epoch))
        if self.draws == self.sizes:
            return positions
        return self._of_parts(positions, epoch)

    def _of_parts(self, positions: Indices, epoch: int) -> Indices:
        result = np.empty_like(positions)
        first_draws = (0, *itertools.accumulate(self.draws))
        first_indices = (0, *itertools.accumulate(self.sizes))
        for part, (draws, size) in enumerate(zip(self.draws, self.sizes, strict=True)):
            of_part = (first_draws[part] <= positions) & (positions < first_draws[part + 1])
            drawn = positions[of_part] - first_draws[part] + epoch * draws
            passes, offsets = drawn // size, drawn % size
            for k in np.unique(passes):  # a later pass over a part has another order
                now = passes == k
                if self.shuffle:  # blocks are mixed already
                    key = (1, part, int(k))
                    offsets[now] = self._shuffled(offsets[now], size, key, window=1)
            result[of_part] = first_indices[part] + offsets
        return result

    def _shuffled(
        self, positions: Indices, size: int, key: Sequence[int], window: int = WINDOW
    ) -> Indices:
        keys = _keys(self.seed, *key)
        if self.shuffle == "blocks":
            return _shuffled_by_blocks(positions, size, keys, window)
        return permuted(positions, size, keys)


def permuted(positions: Indices, size: int, keys: UInt64[np.ndarray, " rounds"]) -> Indices:
    """Where a pseudorandom permutation of 0, 1, ..., size - 1 takes each position.

    A Feistel network over the next even power of two; what falls beyond `size` walks on until it
    falls inside (Black and Rogaway 2002). At most four steps on average, no memory.
    """
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    values = positions.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], half, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(
    values: UInt64[np.ndarray, " n"], half: int, keys: UInt64[np.ndarray, " rounds"]
) -> UInt64[np.ndarray, " n"]:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return left << bits | right


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """SplitMix64's finaliser (Steele et al. 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _shuffled_by_blocks(
    positions: Indices, size: int, keys: UInt64[np.ndarray, " rounds"], window: int
) -> Indices:
    """Blocks in random order, mixed `window` at a time, all turned by a random offset."""
    window *= BLOCK
    whole = size // BLOCK
    result = np.empty_like(positions)
    starts = positions // window * window
    for start in map(int, np.unique(starts)):
        now = starts == start
        mixed = permuted(positions[now] - start, min(window, size - start), keys ^ np.uint64(start))
        result[now] = start + mixed
    in_block = result < whole * BLOCK  # what is left over stays last, and is turned below
    if whole:
        blocks = permuted(result[in_block] // BLOCK, whole, keys)
        result[in_block] = blocks * BLOCK + result[in_block] % BLOCK
    return (result + int(keys[0] % np.uint64(size))) % size


def _keys(*facts: int) -> UInt64[np.ndarray, " rounds"]:
    return np.random.SeedSequence(facts).generate_state(_ROUNDS, np.uint64)
