"""Batches of one exact order, on any number of hosts, from any step on."""

import collections
import dataclasses
import functools
import itertools
import logging
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int32, Int64, UInt8

from .._checks import as_count, as_natural
from .._types import Count, Real
from ..images.preprocess import AbstractTransform
from ._loader import BadSample, Loader
from ._order import Order
from ._source import Mixture
from ._workers import Workers


logger = logging.getLogger("eqx_clip.data")

# The share of bad samples is judged as if at least so many had been drawn.
_JUDGED_FROM = 1000
# Rows that a worker fills at a time, at most.
_CHUNK = 16

Batch = dict[str, np.ndarray]
Part = tuple[np.ndarray, list[BadSample]]  # indices, as `Loader.fill` gives them

if TYPE_CHECKING:  # silent at run time, as in `_types`
    Transform = AbstractTransform
else:
    Transform = Any


def batches(
    source: Any,
    *,
    batch_size: Count,
    preprocess: Transform,
    tokenizer: Any,
    seed: Count = 0,
    shuffle: bool | str = True,
    epochs: Count | None = None,
    drop_remainder: bool = True,
    start_step: Count = 0,
    num_workers: Count = 0,
    process_index: int | None = None,
    process_count: int | None = None,
    max_bad: Real | None = None,
    empty_captions: bool = False,
) -> "Batches":
    """The part of each global batch, from `start_step` on, that belongs to this process.

    Each is `{"image": uint8 (rows, 3, height, width), "tokens": int32 (rows, context),
    "index": int64 (rows,)}`, where rows is `batch_size / process_count`. A batch is a pure function
    of the arguments and its step: the same on any number of workers, the processes' parts together
    the same on any number of processes, and resuming is starting from a step. Normalise inside
    jit: `preprocess.normalize(batch["image"])`.

    **Arguments:**

    - `source`: a sequence of `{"image": encoded bytes or another image, "text": str}`, such as
      `open_source` gives, or a `Mixture`. Of a list of texts, one is drawn for each epoch, from the
      seed, the epoch and the example only.
    - `batch_size`: of the global batch, over all processes.
    - `preprocess`: a `Preprocess` or an `Augment`, whose generator depends on the seed, the epoch
      and the example only.
    - `tokenizer`: a list of texts to int32 (texts, context): `model.tokenize`.
    - `shuffle`: True gives every epoch its own order of all examples. "blocks" shuffles blocks of
      1,024 neighbours and mixes 64 of them, for storage that is slow at random. False keeps the
      source's order.
    - `epochs`: None goes on for ever.
    - `drop_remainder`: what does not fill an epoch's last batch is left out; with False that batch
      is smaller, and a process's part of it may be empty.
    - `num_workers`: processes that read and decode; 0 does it in this one, when asked.
    - `process_index`, `process_count`: by default JAX's.
    - `max_bad`: the share of examples that may have no readable image or no caption. They are
      replaced by others, drawn from the seed, counted in `bad_samples`, and the first of each kind
      is logged; `"index"` has what is really there. By default 0.01, and 0 where `shuffle` is
      False, for evaluation. The share is judged from 1,000 examples on.
    - `empty_captions`: whether a text that is empty, or all space, is a caption. By default it is a
      missing one; None always is.

    Raises `ValueError` at once for a batch that the processes do not divide and for a source
    smaller than a batch, later for too many bad samples. Errors of the source other than `OSError`
    and `ValueError` pass through. `close()`, leaving a `with` block, or dropping the iterator ends
    the workers.
    """
    plan = _Plan(
        Loader(
            source,
            _checked_transform(preprocess),
            tokenizer,
            as_natural("seed", seed),
            bool(empty_captions),
        ),
        _order(source, seed, shuffle),
        as_count("batch_size", batch_size),
        _rows_of(
            batch_size,
            jax.process_index() if process_index is None else process_index,
            jax.process_count() if process_count is None else process_count,
        ),
        drop_remainder,
    )
    start = as_natural("start_step", start_step)
    steps = itertools.count(start)
    if epochs is not None:
        steps = range(start, as_count("epochs", epochs) * plan.steps_per_epoch)
    num_workers = as_natural("num_workers", num_workers)
    return Batches(
        plan.parallel(steps, num_workers) if num_workers else plan.serial(steps),
        plan.steps_per_epoch,
        _share("max_bad", (0.01 if shuffle else 0.0) if max_bad is None else max_bad),
    )


class Batches(Iterator[Batch]):
    """What `batches` gives: an iterator that knows its length and what could not be used.

    - `steps_per_epoch`: batches in an epoch.
    - `bad_samples`: examples that this process could not use, counted by kind of error;
      `MissingCaptionError` is that of an example without a caption.
    """

    def __init__(
        self,
        batches: Generator[tuple[Batch, list[BadSample]]],
        steps_per_epoch: int,
        max_bad: float,
    ):
        self.steps_per_epoch = steps_per_epoch
        self.bad_samples: collections.Counter[str] = collections.Counter()
        self._batches, self._max_bad, self._seen = batches, max_bad, 0

    def __next__(self) -> Batch:
        batch, bad = next(self._batches)
        self._seen += len(batch["index"])
        for sample in bad:
            self._count(sample)
        return batch

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers. No batch comes after it."""
        self._batches.close()

    def _count(self, sample: BadSample) -> None:
        if not self.bad_samples[sample.cause]:
            logger.warning("Not used: %s. %s", sample.where, sample.message)
        self.bad_samples[sample.cause] += 1
        bad = self.bad_samples.total()
        if bad > self._max_bad * max(self._seen, _JUDGED_FROM):
            self.close()
            counts = ", ".join(f"{cause} {count}" for cause, count in self.bad_samples.items())
            raise ValueError(
                f"{bad} of {self._seen + bad} examples could not be used, more than `max_bad`="
                f"{self._max_bad:.2%} ({counts}). The last: {sample.where}. {sample.message}"
            )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What every step of a run draws, and how it is loaded. `rows` are those of this process."""

    loader: Loader
    order: Order
    batch_size: int
    rows: range
    drop_remainder: bool

    def __post_init__(self):
        if not self.steps_per_epoch:
            raise ValueError(
                f"An epoch has {self.order.epoch_size} examples, less than one batch of "
                f"{self.batch_size}: make `batch_size` smaller, or pass `drop_remainder=False`."
            )

    @property
    def steps_per_epoch(self) -> int:
        size = self.order.epoch_size
        return size // self.batch_size if self.drop_remainder else -(-size // self.batch_size)

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of one example's pixels and tokens."""
        transform, context = self.loader.preprocess, np.shape(self.loader.tokenizer([""]))[1]
        return (3, transform.height, transform.width), (context,)

    def draw(self, step: int) -> tuple[int, Int64[np.ndarray, " rows"]]:
        """The epoch of a step, and the indices of this process's rows."""
        epoch, k = divmod(step, self.steps_per_epoch)
        start, end = k * self.batch_size, self.order.epoch_size
        rows = (min(start + row, end) for row in (self.rows.start, self.rows.stop))
        return epoch, self.order.indices(epoch, *rows)

    def serial(self, steps: Iterable[int]) -> Generator[tuple[Batch, list[BadSample]]]:
        for step in steps:
            epoch, indices = self.draw(step)
            pixels, tokens = (
                np.empty((len(indices), *shape), dtype)
                for shape, dtype in zip(self.shapes, (np.uint8, np.int32), strict=True)
            )
            yield _batch(pixels, tokens, [self.loader.fill(epoch, indices, pixels, tokens)])

    def parallel(
        self, steps: Iterable[int], num_workers: int
    ) -> Generator[tuple[Batch, list[BadSample]]]:
        """As many batches under way as keep the workers busy, each in a slot of shared memory."""
        local = len(self.rows)
        chunk = min(_CHUNK, max(1, local // num_workers))
        count = 2 + -(-2 * num_workers * chunk // local)
        pixels, tokens = ((local, *shape) for shape in self.shapes)
        workers = Workers(self.loader, num_workers, count, pixels, tokens)
        try:
            pending = collections.deque()
            for slot, step in zip(itertools.cycle(range(count)), steps, strict=False):
                epoch, indices = self.draw(step)
                rows = len(indices)
                chunks = (slice(i, min(i + chunk, rows)) for i in range(0, rows, chunk))
                parts = [workers.fill(slot, part, epoch, indices[part]) for part in chunks]
                pending.append((slot, rows, parts))
                if len(pending) == count:
                    yield _collected(workers, *pending.popleft())
            while pending:
                yield _collected(workers, *pending.popleft())
        finally:
            workers.close()


def _collected(
    workers: Workers, slot: int, rows: int, parts: list[Future]
) -> tuple[Batch, list[BadSample]]:
    results = [workers.result(part) for part in parts]
    pixels, tokens = workers.arrays
    return _batch(pixels[slot, :rows].copy(), tokens[slot, :rows].copy(), results)


def _batch(
    pixels: UInt8[np.ndarray, "rows 3 height width"],
    tokens: Int32[np.ndarray, "rows context"],
    parts: list[Part],
) -> tuple[Batch, list[BadSample]]:
    index = np.concatenate([np.empty(0, np.int64), *(indices for indices, _ in parts)])
    bad = [sample for _, samples in parts for sample in samples]
    return {"image": pixels, "tokens": tokens, "index": index}, bad


def _order(source: Any, seed: int, shuffle: bool | str) -> Order:
    if shuffle not in (True, False, "blocks"):
        raise ValueError(f"`shuffle` must be True, False or 'blocks'; got {shuffle!r}.")
    if isinstance(source, Mixture):
        return Order(tuple(map(len, source.sources)), source.factors, seed, shuffle)
    return Order((len(source),), (1.0,), seed, shuffle)


def _rows_of(batch_size: int, process_index: int, process_count: int) -> range:
    """The rows of a global batch that belong to a process."""
    if not 0 <= process_index < process_count:
        raise ValueError(f"There is no process {process_index} of {process_count}.")
    if batch_size % process_count:
        raise ValueError(
            f"`batch_size={batch_size}` must be a multiple of the {process_count} processes."
        )
    local = batch_size // process_count
    return range(process_index * local, (process_index + 1) * local)


def _share(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a share from 0 to 1; got {value!r}.")
    return float(value)


def _checked_transform(preprocess: Any) -> AbstractTransform:
    if not isinstance(preprocess, AbstractTransform):
        raise ValueError(
            "`preprocess` must be an `eqx_clip.Preprocess` or `eqx_clip.Augment`, such as "
            f"`model.preprocess`; got {preprocess!r:.80}."
        )
    return preprocess
