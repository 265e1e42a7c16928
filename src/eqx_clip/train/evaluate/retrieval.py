"""Retrieval among the examples of a data set: which text an image finds, and the reverse."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ..._checks import as_array, as_count
from ..._types import AnyArray, Count, Input, at_least_float32


Targets = Int[np.ndarray, " queries"]
# Of some queries, all keys and the queries' targets, one number for each query.
RowFunction = Callable[[Array, Array, Array], Array]


def retrieval_metrics(
    image_features: Input,
    text_features: Input,
    *,
    groups: Input | None = None,
    chunk_size: Count = 256,
) -> dict[str, float]:
    """Recall and ranks of each image's text among all texts, and of each text's image.

    **Arguments:**

    - `image_features`, `text_features`: unit vectors (images, embed) and (texts, embed), NumPy or
      JAX. Without `groups` row i of one belongs with row i of the other.
    - `groups`: integers (texts,), the row of the image that each text belongs to, where images have
      several texts. An image is found by the best of its texts, as CLIP_benchmark has it.
    - `chunk_size`: how many queries are compared at a time. Memory, beside the features, is at most
      that of two arrays (chunk_size, examples) in float32, which is what cosines are at least.

    **Returns:** for both directions, `image_to_text` and `text_to_image`, the shares
    `image_to_text_R@1`, `_R@5` and `_R@10` of queries whose own is among the first so many, and
    `_mean_rank` and `_median_rank` of it, the best being 1; a median between two ranks is rounded
    down. With `groups` also `num_images` and `num_texts`. Of equal cosines the one of the lower
    index is first; OpenCLIP's sort leaves open which, otherwise the numbers are those of its
    `get_clip_metrics`.

    Computed on this process's first device. Raises `ValueError` for features that do not fit, that
    are none, or that are not finite, and for groups that are no rows of the images or leave an
    image without a text.
    """
    image_features, text_features = np.asarray(image_features), np.asarray(text_features)
    is_paired = groups is None
    if groups is None:
        _check_pairs(image_features, text_features)
        groups = np.arange(len(image_features))
    groups = _checked_groups(groups, len(image_features), len(text_features))
    check_features(image_features, text_features)
    # Of the texts of an image the one that comes first has no other of its own before it.
    of_texts = ranks(image_features[groups], text_features, np.arange(len(groups)), chunk_size)
    best = np.full(len(image_features), len(groups))
    np.minimum.at(best, groups, of_texts)
    of_images = ranks(text_features, image_features, groups, chunk_size)
    metrics = {} if is_paired else {"num_images": float(len(best)), "num_texts": float(len(groups))}
    for name, found in (("image_to_text", best), ("text_to_image", of_images)):
        metrics[f"{name}_mean_rank"] = float(found.mean()) + 1
        metrics[f"{name}_median_rank"] = float(np.floor(np.median(found))) + 1
        for k in (1, 5, 10):
            metrics[f"{name}_R@{k}"] = float(np.mean(found < k))
    return metrics


def _check_pairs(image_features: AnyArray, text_features: AnyArray) -> None:
    """A `ValueError` for features that are not of as many images as texts, or of none."""
    shapes = np.shape(image_features), np.shape(text_features)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(
            "Expected image features and text features of one shape, (examples, embed), of at "
            f"least one example; got {shapes[0]} and {shapes[1]}. Where images have several texts, "
            "`groups` says which."
        )


def _checked_groups(groups: Input, num_images: int, num_texts: int) -> Targets:
    """The image of each text, or a `ValueError` for what is not that."""
    groups = np.asarray(groups)
    if groups.shape != (num_texts,) or groups.dtype.kind not in "iu":
        raise ValueError(
            f"`groups` must be integers, one for each of the {num_texts} texts; got {groups.dtype} "
            f"{groups.shape}."
        )
    counts = np.bincount(groups, minlength=num_images) if groups.min(initial=0) >= 0 else []
    if len(counts) != num_images or not np.all(counts):
        raise ValueError(
            f"`groups` must name each of the {num_images} images, from 0 to {num_images - 1}, at "
            f"least once; got {groups.min(initial=0)} to {groups.max(initial=0)}, "
            f"{len(np.unique(groups))} different ones."
        )
    return groups.astype(np.int64)


def check_features(image_features: AnyArray, text_features: AnyArray) -> None:
    """A `ValueError` for what are not finite features of one width, of images and of texts."""
    shapes = np.shape(image_features), np.shape(text_features)
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "Expected image features (images, embed) and text features (texts, embed), at least "
            f"one of each; got {shapes[0]} and {shapes[1]}."
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
    queries: AnyArray, keys: AnyArray, targets: Targets, chunk_size: Count
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
