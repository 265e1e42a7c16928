"""Many images or texts through a model, compiled once for equal models and batch shapes."""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ._clip import CLIP
from ._types import AnyArray


BATCH_SIZE = 64


def encode_images(
    model: CLIP, images: Float[np.ndarray, "batch 3 height width"]
) -> Float[np.ndarray, "batch embed"]:
    """Unit features of preprocessed images."""
    return _in_batches(_encode_images, model, images)


def encode_texts(
    model: CLIP, tokens: Int[np.ndarray, "batch context"]
) -> Float[np.ndarray, "batch embed"]:
    """Unit features of rows of token ids."""
    return _in_batches(_encode_texts, model, tokens)


@eqx.filter_jit
def _encode_images(model: CLIP, images: AnyArray) -> Array:
    return jax.vmap(model.encode_image)(images)


@eqx.filter_jit
def _encode_texts(model: CLIP, tokens: AnyArray) -> Array:
    return jax.vmap(model.encode_text)(tokens)


def _in_batches(
    encode: Callable[[CLIP, AnyArray], Array], model: CLIP, examples: np.ndarray
) -> np.ndarray:
    if len(examples) <= BATCH_SIZE:
        return np.asarray(encode(model, examples))
    # The last batch is filled up with the first examples, so that one shape is compiled.
    filled = np.resize(examples, (-(-len(examples) // BATCH_SIZE), BATCH_SIZE, *examples.shape[1:]))
    return np.concatenate([encode(model, batch) for batch in filled])[: len(examples)]
