"""Checks of what comes in from users: each error names what was given, expected, and the remedy."""

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import DTypeLike

from ._types import AnyArray, Input


_FLOAT32_MAX = float(np.finfo(np.float32).max)
_DTYPES = ("float32", "bfloat16", "float16", "float64")


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
    return as_array(image)


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
    if isinstance(tokens, np.ndarray):
        check_ids(tokens, vocab_size)
    return as_array(tokens)


def as_array(x: AnyArray) -> Array:
    """`x` as a JAX array. NumPy's is sent to the device as a user allows who forbids JAX to do so
    unasked."""
    return jax.device_put(x) if isinstance(x, np.ndarray) else x


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """A `ValueError` for ids outside the vocabulary. `tokens` is not empty."""
    if not (0 <= tokens.min() and tokens.max() < vocab_size):
        raise ValueError(
            f"Expected token ids from 0 to {vocab_size - 1}, this text tower's vocabulary; "
            f"got {tokens.min()} to {tokens.max()}."
        )


def as_count(name: str, value: Any) -> int:
    """`value` as an `int`, or a `ValueError` if it is not a whole number above 0."""
    if not _is_whole(value, least=1):
        raise ValueError(f"`{name}` must be a whole number above 0; got {value!r}.")
    return int(value)


def as_natural(name: str, value: Any) -> int:
    """`value` as an `int`, or a `ValueError` if it is not a whole number of at least 0."""
    if not _is_whole(value, least=0):
        raise ValueError(f"`{name}` must be a whole number of at least 0; got {value!r}.")
    return int(value)


def as_counts(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    """Each value as `as_count` gives it."""
    return tuple(as_count(name, value) for value in values)


def as_size(name: str, value: Any) -> int | tuple[int, int]:
    """`value` as one number for a square or as (height, width), or a `ValueError`."""
    sides: tuple[Any, ...] = (
        value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    )
    if not all(_is_whole(side, least=1) for side in sides):
        raise ValueError(
            f"`{name}` must be a whole number above 0, or (height, width); got {value!r}."
        )
    height, width = (int(side) for side in sides)
    return height if height == width else (height, width)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as a pair or as one number for a square."""
    return (size, size) if isinstance(size, int) else size


def as_finite(name: str, value: Any) -> float:
    """`value`, a number or an array of no axes, as a `float`, or a `ValueError` if it is not
    finite in float32."""
    number = value.item() if isinstance(value, AnyArray) and value.ndim == 0 else value
    # Compared, since `math.isfinite` raises for an integer beyond floats.
    is_finite = isinstance(number, Real) and -_FLOAT32_MAX <= cast(float, number) <= _FLOAT32_MAX
    if not is_finite:
        raise ValueError(f"`{name}` must be a finite number; got {value!r}.")
    return float(number)


def as_positive(name: str, value: Any) -> float:
    """`value` as a `float`, or a `ValueError` if it is not a finite number above 0."""
    if not (isinstance(value, Real) and 0 < float(value) < math.inf):
        raise ValueError(f"`{name}` must be a number above 0; got {value!r}.")
    return float(value)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in tuple(choices):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def canonicalize(config: Any, check: Callable[[str, Any], Any], *names: str) -> None:
    """Brings fields of a frozen configuration to their one form, by a function of this file."""
    for name in names:
        object.__setattr__(config, name, check(name, getattr(config, name)))


def _is_whole(value: Any, *, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_dtype(dtype: DTypeLike) -> np.dtype:
    """`dtype`, if towers compute in it; else `ValueError`."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in _DTYPES:
        names = ", ".join(map(repr, _DTYPES))
        raise ValueError(f"`dtype` must be of floats, one of {names}; got {dtype!r}.")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise ValueError(
            "`dtype=float64` needs JAX's 64-bit mode: "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )
    return found


def check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"`width={width}` must be a multiple of `num_heads={num_heads}`.")


def did_you_mean(given: str, names: Sequence[str]) -> str:
    """' Did you mean ...?' with the nearest of `names`, or nothing. Letter case does not count."""
    by_spelling = {name.lower().replace("_", "-"): name for name in names}
    close = get_close_matches(given.lower().replace("_", "-"), by_spelling, n=1, cutoff=0.5)
    return f" Did you mean {by_spelling[close[0]]!r}?" if close else ""
