"""Retrieval among the examples of a data set: which text an image finds, and the reverse."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from .._checks import as_array, as_count
from .._types import AnyArray, Count, Input, at_least_float32


Targets = Int[np.ndarray, " queries"]
# Of some queries, all keys and the queries' targets, one number for each query.
RowFunction = Callable[[Array, Array, Array], Array]


def retrieval_metrics(
    image_features: Input, text_features: Input, *, chunk_size: Count = 256
) -> dict[str, float]:
    """Recall and ranks of each image's text among all texts, and of each text's image.

    **Arguments:**

    - `image_features`, `text_features`: unit vectors (examples, embed), NumPy or JAX; row i of one
      belongs with row i of the other.
    - `chunk_size`: how many queries are compared at a time. Memory, beside the features, is at most
      that of two arrays (chunk_size, examples) in float32, which is what cosines are at least.

    **Returns:** for both directions, `image_to_text` and `text_to_image`, the shares
    `image_to_text_R@1`, `_R@5` and `_R@10` of queries whose own is among the first so many, and
    `_mean_rank` and `_median_rank` of it, the best being 1; a median between two ranks is rounded
    down. Of equal cosines the one of the lower index is first; OpenCLIP's sort leaves open which,
    otherwise the numbers are those of its `get_clip_metrics`.

    Computed on this process's first device. Raises `ValueError` for features that are not of one
    shape, (examples, embed), that are none, or that are not finite.
    """
    check_features(image_features, text_features)
    own = np.arange(len(image_features))
    pairs = {
        "image_to_text": (image_features, text_features),
        "text_to_image": (text_features, image_features),
    }
    metrics = {}
    for name, (queries, keys) in pairs.items():
        found = ranks(queries, keys, own, chunk_size=chunk_size)
        metrics[f"{name}_mean_rank"] = float(found.mean()) + 1
        metrics[f"{name}_median_rank"] = float(np.floor(np.median(found))) + 1
        for k in (1, 5, 10):
            metrics[f"{name}_R@{k}"] = float(np.mean(found < k))
    return metrics


def check_features(image_features: Input, text_features: Input) -> None:
    """A `ValueError` for what are not finite features of as many images as texts."""
    shapes = np.shape(image_features), np.shape(text_features)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(
            "Expected image features and text features of one shape, (examples, embed), of at "
            f"least one example; got {shapes[0]} and {shapes[1]}."
        )
    for name, features in (("image", image_features), ("text", text_features)):
        broken = np.flatnonzero(~np.isfinite(np.asarray(features, np.float32)).all(axis=1))
        if len(broken):
            raise ValueError(
                f"The {name} features of {len(broken)} of {len(features)} examples are not "
                f"finite, the first of them row {broken[0]}: the model has diverged, or "
                "its computation overflows in half precision."
            )


def ranks(
    queries: AnyArray, keys: AnyArray, targets: Targets, *, chunk_size: Count
) -> Int[np.ndarray, " queries"]:
    """How many keys come before each query's own, `keys[targets]`, in the order of their cosines.

    Of equal cosines the key of the lower index is first.
    """
    return by_rows(_ranks, queries, keys, targets, chunk_size)


def by_rows(
    function: RowFunction, queries: AnyArray, keys: AnyArray, targets: Targets, chunk_size: Count
) -> np.ndarray:
    """A compiled function over all queries, `chunk_size` at a time; the last are filled up."""
    size = min(as_count("chunk_size", chunk_size), len(queries))
    queries, on_device = np.asarray(queries), _at_least_float32(np.asarray(keys))
    results = []
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        chunk = _at_least_float32(filled(queries[rows], size))
        own = as_array(filled(targets[rows], size))
        results.append(jax.device_get(function(chunk, on_device, own)))
    return np.concatenate(results)[: len(queries)]


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """`size` rows: those given, then zeros."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def _at_least_float32(features: np.ndarray) -> Array:
    return as_array(np.asarray(features, at_least_float32(features.dtype)))


@jax.jit
def _ranks(
    queries: Float[Array, "rows embed"],
    keys: Float[Array, "keys embed"],
    targets: Int[AnyArray, " rows"],
) -> Int[Array, " rows"]:
    cosines = jnp.matmul(queries, keys.T, precision="highest")
    own = jnp.take_along_axis(cosines, targets[:, None], axis=1)
    earlier = jnp.arange(len(keys))[None] < targets[:, None]
    return jnp.sum((cosines > own) | ((cosines == own) & earlier), axis=1)
