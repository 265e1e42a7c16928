"""What a data set holds, before anyone trains on it."""

import collections
import dataclasses
import functools
import io
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image
from tqdm import tqdm

from .._checks import as_count
from .._types import Count, Real
from ..images.augment import Augment
from ..images.decode import is_cut_off, to_rgb
from ..tokenizers.clip import Tokenizer
from ._batches import batches
from ._captions import MissingCaptionError, captions
from ._loader import BadSample, bad_sample
from ._order import Order


_BLOCK = 1024  # samples under way at a time
_FED = 64  # the batch that images/s are measured with


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `examine` saw. Sizes and lengths are of the good samples, in the data's order; where
    these have several captions each, lengths and captions are of all.

    - `rows`: examples in the data set; `samples`: how many of them were looked at.
    - `bad`: those without a readable image or a caption.
    - `formats`: how many images are JPEG, PNG, ...
    - `cut_off`: images of 16-bit grey or of floats, whose values above 255 Pillow makes white.
    - `lengths`: of the captions in tokens, start and end of text included, nothing cut.
    - `empty`: captions of no more than space.
    - `captions`: each different caption and how often it occurs, the most frequent first.
      Captions of the same tokens, cut at `context_length`, are the same.
    - `false_negatives`: how many examples of a random batch of `batch_size` have the caption of
      another one of it, on average. The contrastive loss takes these for wrong pairs.
    - `images_per_second`: what `batches` feeds with `num_workers`; None where it was not measured.
    """

    rows: int
    bad: tuple[BadSample, ...]
    formats: dict[str, int]
    widths: Int[np.ndarray, " good"]
    heights: Int[np.ndarray, " good"]
    cut_off: int
    lengths: Int[np.ndarray, " captions"]
    empty: int
    captions: tuple[tuple[str, int], ...]
    context_length: int
    batch_size: int
    false_negatives: float
    num_workers: int
    images_per_second: float | None

    @property
    def good(self) -> int:
        return len(self.widths)

    @property
    def samples(self) -> int:
        return self.good + len(self.bad)

    @property
    def missing_captions(self) -> int:
        """Samples without a caption, which are among `bad`."""
        return sum(sample.cause == MissingCaptionError.__name__ for sample in self.bad)

    @property
    def shortest_sides(self) -> Int[np.ndarray, " good"]:
        return np.minimum(self.widths, self.heights)

    @property
    def cut(self) -> int:
        """Captions of more tokens than `context_length`."""
        return int(np.sum(self.lengths > self.context_length))

    @property
    def repeated(self) -> int:
        """Captions that another sample has, too."""
        return sum(count for _, count in self.captions if count > 1)


def examine(
    source: Any,
    *,
    samples: Count = 2000,
    batch_size: Count = 256,
    context_length: Count = 77,
    num_workers: int | None = None,
    seconds: Real = 5.0,
    progress: bool = True,
    empty_captions: bool = False,
) -> Report:
    """Looks at samples of a source, spread over it at random, and measures how fast it is read.

    **Arguments:**

    - `source`: what `open_source` gives, or any sequence of `{"image": ..., "text": ...}`.
    - `samples`: how many to look at, at least a batch; 0 looks at all.
    - `batch_size`: of which the false negatives are counted; not more than the source has.
    - `context_length`: in tokens, where captions are cut.
    - `num_workers`: threads that look, then processes that feed; by default one for each core.
    - `seconds`: how long to measure the images/s; 0 does not.
    - `empty_captions`: whether empty texts are captions, as for `batches`.

    Raises `ValueError` for a number out of range.
    """
    batch_size, rows = as_count("batch_size", batch_size), len(source)
    if samples < 0 or seconds < 0:
        raise ValueError(
            f"`samples` and `seconds` must be at least 0; got {samples} and {seconds}."
        )
    num_workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    tokenizer = Tokenizer(context_length)
    number = min(rows, max(samples, batch_size)) if samples else rows
    look = functools.partial(_look_at, source, empty_captions=empty_captions)
    seen, bad = _look_over(source, look, number, max(1, num_workers), progress)
    texts = [text for sample in seen for text in sample.texts]
    captions = _counted(texts, tokenizer)
    batch_size = min(batch_size, len(texts))
    return Report(
        rows=rows,
        bad=tuple(bad),
        formats=dict(collections.Counter(sample.format for sample in seen).most_common()),
        widths=np.array([sample.width for sample in seen], np.int64),
        heights=np.array([sample.height for sample in seen], np.int64),
        cut_off=sum(sample.cut_off for sample in seen),
        lengths=np.array([len(tokenizer.encode(text)) + 2 for text in texts], np.int64),
        empty=sum(not text.strip() for text in texts),
        captions=captions,
        context_length=tokenizer.context_length,
        batch_size=batch_size,
        false_negatives=expected_repeats([count for _, count in captions], batch_size),
        num_workers=num_workers,
        images_per_second=_rate(
            source, tokenizer, num_workers, seconds, progress, empty_captions=empty_captions
        )
        if seen and seconds
        else None,
    )


class _Sample(NamedTuple):
    width: int
    height: int
    format: str
    cut_off: bool
    texts: list[str]


def _look_over(
    source: Any, look: Callable[[int], Any], number: int, threads: int, progress: bool
) -> tuple[list[_Sample], list[BadSample]]:
    """`number` samples, those that training would draw first, and the bad ones among them."""
    indices = np.sort(Order((len(source),), (1.0,), 0, True).indices(0, 0, number))
    seen, bad = [], []
    bar = tqdm(total=number, unit="image", desc="Looking", delay=1, disable=not progress)
    with bar, ThreadPoolExecutor(threads) as pool:
        for start in range(0, number, _BLOCK):
            block = indices[start : start + _BLOCK].tolist()
            for sample in pool.map(look, block):
                (bad if isinstance(sample, BadSample) else seen).append(sample)
                bar.update()
    return seen, bad


def _look_at(source: Any, i: int, *, empty_captions: bool) -> _Sample | BadSample:
    try:
        example = source[i]
        texts = captions(example["text"], empty=empty_captions)
        width, height = to_rgb(example["image"]).size
        name, mode = _format(example["image"])
    except (OSError, ValueError) as error:
        return bad_sample(source, i, error)
    return _Sample(width, height, name, is_cut_off(mode), texts)


def _format(image: Any) -> tuple[str, str]:
    """The format of an encoded image, or the type of another, and its mode as Pillow has it."""
    if isinstance(image, Image.Image):
        return type(image).__name__, image.mode
    if not isinstance(image, bytes):
        return type(image).__name__, "RGB"
    with Image.open(io.BytesIO(image)) as opened:
        return str(opened.format), opened.mode


def _counted(texts: list[str], tokenizer: Tokenizer) -> tuple[tuple[str, int], ...]:
    """Each different caption, the first spelling of it, and how often it occurs."""
    if not texts:
        return ()
    _, firsts, counts = np.unique(tokenizer(texts), axis=0, return_index=True, return_counts=True)
    order = np.lexsort((firsts, -counts))
    return tuple((texts[firsts[k]], int(counts[k])) for k in order)


def expected_repeats(counts: list[int], batch_size: int) -> float:
    """How many examples of a random batch have the caption of another one of it, on average.

    `counts` says how many examples have each caption. The batch is drawn without replacement, as an
    epoch is. Of a random part of a data set this is an unbiased estimate for the whole.
    """
    size = sum(counts)

    def share_alone(count: int) -> float:
        """The probability that the others of the batch are none of `count - 1` examples."""
        ways = ((size - batch_size - k) / (size - 1 - k) for k in range(count - 1))
        return math.prod(ways, start=1.0)

    repeats = collections.Counter(counts).items()
    drawn = batch_size / max(1, size)
    return drawn * sum(n * count * (1 - max(0.0, share_alone(count))) for count, n in repeats)


def _rate(
    source: Any,
    tokenizer: Tokenizer,
    num_workers: int,
    seconds: float,
    progress: bool,
    *,
    empty_captions: bool,
) -> float | None:
    """Images/s of training batches once the workers have started, or None if too many are bad."""
    fed, elapsed = 0, 0.0
    bar = tqdm(unit="image", desc="Measuring images/s", delay=1, disable=not progress)
    feed = batches(
        source,
        batch_size=min(_FED, len(source)),
        preprocess=Augment(),
        tokenizer=tokenizer,
        num_workers=num_workers,
        process_index=0,  # of one: JAX is not asked, which would take hold of a TPU
        process_count=1,
        max_bad=1.0,
        empty_captions=empty_captions,
    )
    with bar, feed:
        try:
            next(feed)
            start = time.perf_counter()
            while elapsed < seconds:
                count = len(next(feed)["index"])
                fed, elapsed = fed + count, time.perf_counter() - start
                bar.update(count)
        except ValueError:
            return None
    return fed / elapsed
