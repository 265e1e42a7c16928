"""Many raw images or texts to features, prepared in threads beside the computation."""

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Num, UInt8

from .._checks import as_count, short_repr
from .._clip import CLIP
from .._types import AnyArray, Count, ImageLike, TextLike, at_least_float32
from ..sharding import rows_beside
from ..tokenizers.clip import as_captions, as_several
from ..tokenizers.text_lengths import text_length
from .inputs import check_several, pixels_of, read_at_once


# Silent at run time, as in `_types`: a `ValueError` with the remedy is to speak first.
if TYPE_CHECKING:
    Images = Iterable[ImageLike]
    OnError = Callable[[int, Exception], Any]
else:
    Images = OnError = Any

# Texts are sorted by length within this many batches, so that a batch's are about equally long.
WINDOW = 64

Batch = tuple[Int[np.ndarray, " batch"], Num[np.ndarray, "batch ..."]]  # indices, examples


def embed_images(
    model: CLIP,
    images: Images,
    *,
    batch_size: Count = 64,
    progress: bool = True,
    on_error: OnError | None = None,
) -> Float[np.ndarray, "images embed"]:
    """Unit features of many raw images, in their order, in at least float32.

    **Arguments:**

    - `images`: a list, a generator, or anything else that gives what `model.preprocess` takes: PIL
      images, paths, open files, encoded bytes, uint8 arrays. They are decoded and resized in
      threads, while the model computes the batch before. A generator is read two batches ahead; the
      PIL images, files, buffers and arrays that it gives are read at once, since it may close or
      change them when it goes on.
    - `batch_size`: one shape is compiled; the last batch is filled up. Fewer images than this are
      filled up to a power of two. A batch is spread over the mesh that the model lies on, if it
      does, and filled up to a multiple of its devices.
    - `progress`: whether to show a bar, once a second has passed.
    - `on_error`: what to do with an image that cannot be read. By default a `ValueError` names it
      and its index, and ends the work. A function is given the index and the error, and the image
      is left out of the result: with `skipped = {}`, `on_error=skipped.__setitem__` collects them.

    Errors of the generator itself pass through. No thread outlives the call, unless it is
    interrupted twice: then each ends with the image that it is at.
    """
    batch_size = as_count("batch_size", batch_size)
    check_several(images)
    if not (on_error is None or callable(on_error)):
        raise ValueError(
            "`on_error` must be a function of an index and an error; got "
            f"{short_repr(on_error)}. To collect what is left out: `skipped = {{}}`, "
            "`on_error=skipped.__setitem__`."
        )
    bar = _bar(images, "image", progress)

    def skip(i: int, error: Exception) -> None:
        if on_error is None:
            raise ValueError(f"Image {i} cannot be read. {error}") from error
        on_error(i, error)
        bar.update()

    with _threads() as pool:
        pixels = _ahead(pool, pixels_of(model.preprocess), read_at_once(images), 2 * batch_size)
        batches = _image_batches(pixels, batch_size, skip)
        return _embed(_encode_images, model, batches, batch_size, bar)


def embed_texts(
    model: CLIP, texts: TextLike, *, batch_size: Count = 64, progress: bool = True
) -> Float[np.ndarray, "texts embed"]:
    """Unit features of many texts, in their order, in at least float32.

    Where the model says how many tokens of a row its feature depends on (`used_lengths`),
    texts are sorted by length and computed at the least multiple of 8 tokens that holds them: the
    same features, for a fraction of the work. Other towers are given the whole context.

    **Arguments:**

    - `texts`: strings in a list, a generator, or any other iterable; tokenized in a thread, while
      the model computes.
    - `batch_size`, `progress`: as for `embed_images`.

    Raises `ValueError` for a text that is not a string. Errors of the generator itself pass
    through. No thread outlives the call.
    """
    batch_size = as_count("batch_size", batch_size)
    texts = as_several(texts)
    with _threads() as pool:
        windows = _ahead(pool, model.tokenize, _windows(texts, WINDOW * batch_size), 1)
        batches = _text_batches(model, windows, batch_size)
        return _embed(_encode_texts, model, batches, batch_size, _bar(texts, "text", progress))


@eqx.filter_jit
def _encode_images(model: CLIP, pixels: UInt8[AnyArray, "batch 3 height width"]) -> Array:
    return jax.vmap(model.encode_image)(model.preprocess.normalize(jnp.asarray(pixels)))


@eqx.filter_jit
def _encode_texts(model: CLIP, tokens: Int[AnyArray, "batch tokens"]) -> Array:
    return jax.vmap(model.encode_text)(tokens)


def _embed(
    encode: Callable[[CLIP, AnyArray], Array],
    model: CLIP,
    batches: Iterator[Batch],
    batch_size: int,
    bar: Any,
) -> Float[np.ndarray, "examples embed"]:
    """Features by index. One batch is computed while the next is prepared."""
    sharding = rows_beside(model)
    devices = 1 if sharding is None else sharding.num_devices
    indices: list[np.ndarray] = []
    features: list[np.ndarray | Array] = []
    with bar:
        for index, examples in batches:
            # Later batches are as large as the first, or come last and are filled up.
            size = batch_size if features else min(batch_size, _power_of_two(len(examples)))
            size = -(-size // devices) * devices
            current = encode(model, jax.device_put(_filled(examples, size), sharding))
            if features:
                features[-1] = jax.device_get(features[-1])[: len(indices[-1])]
                bar.update(len(indices[-1]))
            indices.append(index)
            features.append(current)
        if not features:
            dtype = at_least_float32(model.logit_scale.dtype)
            return np.empty((0, model.embed_dim), dtype)
        features[-1] = jax.device_get(features[-1])[: len(indices[-1])]
        bar.update(len(indices[-1]))
    return np.concatenate(features)[np.argsort(np.concatenate(indices))]


def _power_of_two(count: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (count - 1).bit_length()


def _filled(examples: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([examples, examples[:1].repeat(size - len(examples), axis=0)])


def _image_batches(
    pixels: Iterator[Callable[[], np.ndarray]],
    batch_size: int,
    skip: Callable[[int, Exception], None],
) -> Iterator[Batch]:
    def readable() -> Iterator[tuple[int, np.ndarray]]:
        for i, result in enumerate(pixels):
            try:
                array = result()
            except (OSError, ValueError) as error:
                skip(i, error)
            else:
                yield i, array

    for batch in _chunks(readable(), batch_size):
        indices, arrays = zip(*batch, strict=True)
        yield np.array(indices), np.stack(arrays)


def _text_batches(
    model: CLIP, windows: Iterator[Callable[[], np.ndarray]], batch_size: int
) -> Iterator[Batch]:
    start = 0
    for window in windows:
        tokens = window()
        used = model.used_lengths(tokens)
        order = np.argsort(-used, kind="stable")  # the shortest last: filling them up costs least
        for i in range(0, len(order), batch_size):
            index = order[i : i + batch_size]
            length = text_length(int(used[index[0]]), tokens.shape[1])
            yield start + index, tokens[index, :length]
        start += len(tokens)


def _windows(texts: Iterable[Any], size: int) -> Iterator[list[str]]:
    start = 0
    for window in _chunks(texts, size):
        yield as_captions(window, start)
        start += len(window)


ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def _chunks(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _ahead(
    pool: Executor, function: Callable[[ItemT], ResultT], items: Iterable[ItemT], count: int
) -> Iterator[Callable[[], ResultT]]:
    """What gives (or raises) the function's result for each item, `count` of them under way."""
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > count:
            yield pending.popleft().result
    while pending:
        yield pending.popleft().result


@contextlib.contextmanager
def _threads() -> Iterator[Executor]:
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="eqx_clip")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _bar(examples: Iterable, unit: str, progress: bool) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own

    total = len(examples) if isinstance(examples, Sized) else None
    return Bar(total=total, unit=unit, unit_scale=False, delay=1, disable=not progress)
