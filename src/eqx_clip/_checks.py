"""Checks of what comes in from users: each error names what was given, expected, and the remedy."""

import math
from collections.abc import Sequence
from difflib import get_close_matches

import jax.numpy as jnp
import numpy as np
from jax import Array

from ._types import AnyArray, Input, Number


def check_image(image: Input, size: tuple[int, int] | None) -> Array:
    """`image` as a JAX array, or a `ValueError`. `size` is (height, width); None: any."""
    height, width = size or ("height", "width")
    expected = f"one image, a float array of shape (3, {height}, {width})"
    if not isinstance(image, AnyArray):
        raise ValueError(
            f"Expected {expected}; got {type(image).__name__}. `model.preprocess(image)` gives it."
        )
    shape = image.shape
    if len(shape) == 4:
        raise ValueError(
            f"Expected {expected}; got a batch of shape {shape}. "
            "Map over the batch: `jax.vmap(model.encode_image)(images)`."
        )
    if len(shape) == 3 and shape[0] != 3 and shape[2] == 3:
        raise ValueError(
            f"Expected {expected}; got channels last, {shape}. "
            "Move the channels to the front: `image.transpose(2, 0, 1)`."
        )
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"Expected {expected}; got shape {shape}.")
    if size is not None and shape[1:] != size:
        raise ValueError(
            f"Expected {expected}; got shape {shape}. `model.preprocess` resizes to the model's "
            "size; `eqx_clip.load(..., image_size=...)` gives a model of another size."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"Expected {expected}; got {image.dtype}. "
            "Normalise pixels first: `model.preprocess.normalize(pixels)`."
        )
    return jnp.asarray(image)


def check_tokens(tokens: Input, context_length: int, vocab_size: int) -> Array:
    """`tokens` as a JAX array, or a `ValueError`.

    Ids are compared with the vocabulary only where their values are known without waiting for a
    device: in NumPy arrays.
    """
    expected = f"one row of at most {context_length} integer token ids"
    if not isinstance(tokens, AnyArray):
        raise ValueError(
            f"Expected {expected}; got {type(tokens).__name__}. "
            "`model.tokenize(texts)[0]` gives it."
        )
    if tokens.ndim == 2:
        raise ValueError(
            f"Expected {expected}; got a batch of shape {tokens.shape}. "
            "Map over the batch: `jax.vmap(model.encode_text)(tokens)`."
        )
    if tokens.ndim != 1 or tokens.shape[0] == 0:
        raise ValueError(f"Expected {expected}; got shape {tokens.shape}.")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"Expected {expected}; got {tokens.dtype}.")
    if tokens.shape[0] > context_length:
        raise ValueError(
            f"Expected {expected}; got {tokens.shape[0]}. Tokenize with "
            f"`context_length={context_length}`, or load the model with a longer "
            f"`context_length=`."
        )
    if isinstance(tokens, np.ndarray) and not (0 <= tokens.min() and tokens.max() < vocab_size):
        raise ValueError(
            f"Expected token ids from 0 to {vocab_size - 1}, this text tower's vocabulary; "
            f"got {tokens.min()} to {tokens.max()}."
        )
    return jnp.asarray(tokens)


def check_counts(**values: object) -> None:
    """A `ValueError` for the first value that is not a whole number above 0."""
    for name, value in values.items():
        if not _is_count(value):
            raise ValueError(f"`{name}` must be a whole number above 0; got {value!r}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_sizes(**values: object) -> None:
    """A `ValueError` for the first value that is neither a whole number above 0 nor two of them."""
    for name, value in values.items():
        sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
        if not all(_is_count(side) for side in sides):
            raise ValueError(
                f"`{name}` must be a whole number above 0, or (height, width); got {value!r}."
            )


def check_finite(**values: object) -> None:
    """A `ValueError` for the first value that is not a finite number."""
    for name, value in values.items():
        if not isinstance(value, Number) or not math.isfinite(value):
            raise ValueError(f"`{name}` must be a finite number; got {value!r}.")


def check_positive(**values: object) -> None:
    """A `ValueError` for the first value that is not a number above 0."""
    for name, value in values.items():
        if not isinstance(value, Number) or not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a number above 0; got {value!r}.")


def check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"`width={width}` must be a multiple of `num_heads={num_heads}`.")


def did_you_mean(given: str, names: Sequence[str]) -> str:
    """' Did you mean ...?' with the nearest of `names`, or nothing."""
    close = get_close_matches(given, names, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
