"""Batches on the devices before the step asks for them, their texts cut to what is used."""

import collections
import functools
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ..._types import Count
from ...sharding import copies, global_batch, rows
from ...tokenizers.text_lengths import text_length, used_lengths


def prefetch(
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    *,
    text: Any = None,
    ahead: Count = 2,
) -> Generator[dict[str, Any]]:
    """This process's batches as global ones, drawn in a thread while devices compute.

    **Arguments:**

    - `batches`: `{"image": ..., "tokens": ..., "index": ...}` of equally many rows on each process.
    - `text`: the model, or its text tower. If it says that tokens behind the end of a text change
      no feature (`used_lengths`), a batch is cut to 16, 24, 32, 40 or 48 tokens where the longest
      text of all processes is that short. None cuts nothing.
    - `ahead`: batches that wait in memory.

    **Yields** `"image"` and `"tokens"` as global arrays, spread over the mesh by their rows, and
    `"index"`, NumPy, of this process's. Errors of `batches` pass through. Closing the iterator ends
    the thread.
    """
    iterator = iter(batches)
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    drawn: collections.deque[Future] = collections.deque(
        pool.submit(next, iterator, None) for _ in range(ahead)
    )
    ready: collections.deque[tuple[Mapping[str, np.ndarray], Callable[[], int]]]
    ready = collections.deque()
    # Processes agree on the length of one batch more than is asked for, during the step before.
    agreeing = int(jax.process_count() > 1)
    try:
        while True:
            batch = drawn.popleft().result()
            if batch is not None:
                drawn.append(pool.submit(next, iterator, None))
                ready.append((batch, _length(batch["tokens"], text, mesh)))
            if ready and (batch is None or len(ready) > agreeing):
                yield _placed(*ready.popleft(), mesh)
            if batch is None:
                if ready:
                    yield _placed(*ready.popleft(), mesh)
                return
    finally:
        pool.shutdown(cancel_futures=True)


def _placed(
    batch: Mapping[str, np.ndarray], length: Callable[[], int], mesh: Mesh
) -> dict[str, Any]:
    arrays = {"image": batch["image"], "tokens": batch["tokens"][:, : length()]}
    return {**global_batch(arrays, mesh), "index": batch["index"]}


def _length(tokens: np.ndarray, text: Any, mesh: Mesh) -> Callable[[], int]:
    """How long the texts of a global batch are, when all processes have said it."""
    used = int(used_lengths(text, tokens).max(initial=1))
    length = text_length(used, tokens.shape[1], training=True)
    if jax.process_count() == 1:
        return lambda: length
    # An array on the mesh has a value for each device of a process.
    local = np.full(len(mesh.local_devices), length, np.int32)
    longest = _longest(mesh)(jax.make_array_from_process_local_data(rows(mesh), local))
    return lambda: int(longest)


@functools.cache
def _longest(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=copies(mesh))
