"""Examples to rows of a batch, those that cannot be read replaced by others."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from ..images.preprocess import AbstractTransform
from ._captions import captions, drawn
from ._source import Example, is_remote, where


Read = Callable[[], Example]

# Others that are tried in the place of one that cannot be read.
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class BadSample:
    """An example without a readable image or a caption: its index and place, the kind of error."""

    index: int
    where: str
    cause: str
    message: str


@dataclasses.dataclass(frozen=True)
class Loader:
    """Reads, decodes, augments and tokenizes. What it gives depends on (seed, epoch, index) only.

    - `source`: a sequence of `{"image": ..., "text": ...}`.
    - `tokenizer`: a list of texts to int32 (texts, context).
    - `empty_captions`: whether empty texts are captions.
    """

    source: Any
    preprocess: AbstractTransform
    tokenizer: Any
    seed: int
    empty_captions: bool = False

    def fill(
        self,
        epoch: int,
        indices: Int64[np.ndarray, " rows"],
        pixels: UInt8[np.ndarray, "rows 3 height width"],
        tokens: Int32[np.ndarray, "rows context"],
    ) -> tuple[Int64[np.ndarray, " rows"], list[BadSample]]:
        """Writes the examples into `pixels` and `tokens`.

        Gives the indices of what was written, and what could not be used and was replaced.
        """
        used, texts, bad = np.empty_like(indices), [], []
        for row, (index, first) in enumerate(zip(indices, self._reads(indices), strict=True)):
            for candidate, read in self._candidates(epoch, int(index), first):
                try:
                    example = read()
                    candidates = captions(example["text"], empty=self.empty_captions)
                    rng = np.random.default_rng((self.seed, epoch, candidate))
                    pixels[row] = self.preprocess.pixels(example["image"], rng)
                except (OSError, ValueError) as error:
                    bad.append(bad_sample(self.source, candidate, error))
                else:
                    used[row] = candidate
                    texts.append(drawn(candidates, self.seed, epoch, candidate))
                    break
            else:
                raise ValueError(_too_many(bad, row))
        if texts:
            tokens[:] = self.tokenizer(texts)
        return used, bad

    def _reads(self, indices: Int64[np.ndarray, " rows"]) -> list[Read]:
        """What reads each example. Where that waits for a network, all wait at once."""
        reads = [functools.partial(self.source.__getitem__, int(index)) for index in indices]
        if not (reads and is_remote(self.source)):
            return reads
        with ThreadPoolExecutor(len(reads)) as pool:
            return [pool.submit(read).result for read in reads]

    def _candidates(self, epoch: int, index: int, read: Read) -> Iterator[tuple[int, Read]]:
        """The example, and others that take its place: their indices, and what reads them."""
        yield index, read
        others = np.random.default_rng((self.seed, epoch, index, 1))
        for _ in range(_ATTEMPTS):
            other = int(others.integers(len(self.source)))
            yield other, functools.partial(self.source.__getitem__, other)


def _too_many(bad: list[BadSample], good: int) -> str:
    """That hardly an example can be used, with how many of those that were read at once."""
    counts = collections.Counter(sample.cause for sample in bad)
    kinds = ", ".join(f"{cause} {count}" for cause, count in counts.items())
    read = len(bad) + good
    return (
        f"{len(bad)} of {read} examples that were read, {len(bad) / read:.2%}, could not be used "
        f"({kinds}), {_ATTEMPTS} in the place of one among them; `python -m eqx_clip.data` looks "
        f"the whole data set over. The last: {bad[-1].where}. {bad[-1].message}"
    )


def bad_sample(source: Any, index: int, error: Exception) -> BadSample:
    """What is told of an example that cannot be read."""
    cause = error.__cause__ or error  # of our own errors, Pillow's tells the kind
    place = where(source, index)
    message = str(error).removeprefix(f"{place}: ")
    return BadSample(index, place, type(cause).__name__, message)
