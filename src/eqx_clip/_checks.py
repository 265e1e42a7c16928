"""Checks of what comes in from users: each error names what was given, expected, and the remedy."""

import builtins
import math
import reprlib
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._types import AnyArray, DType, Input, Key


_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT64_MAX = 2**63 - 1
MAX_SIDE = 2**16  # pixels
MAX_TOKENS = 2**16  # of a text, or of an image: the scores of one head take 17 GB
DTYPES = ("float32", "bfloat16", "float16", "float64")


class _Repr(reprlib.Repr):
    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, Array | np.ndarray):
            return f"{x.dtype} array of shape {x.shape}"
        if isinstance(x, eqx.Module):
            return f"{type(x).__name__}(...)"
        if isinstance(x, Integral) and abs(int(x)) >= 1 << 64:  # Python writes no 4301 digits
            return f"an integer of {int(x).bit_length()} bits"
        if isinstance(x, str | bytes | bytearray):
            return builtins.repr(x[: self.maxstring]) + ("..." if len(x) > self.maxstring else "")
        return super().repr1(x, level)


_shortened = _Repr()
_shortened.maxstring, _shortened.maxother = 200, 200


def short_repr(value: Any) -> str:
    """`repr(value)` in 500 characters at most: arrays by their shapes, modules by their names."""
    text = _shortened.repr(value)
    return text if len(text) <= 500 else f"{text[:500]}..."


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
        raise ValueError(f"`{name}` must be a whole number above 0; got {short_repr(value)}.")
    if value > _INT64_MAX:
        raise ValueError(f"`{name}` must be below 2**63; got {short_repr(value)}.")
    return int(value)


def as_natural(name: str, value: Any) -> int:
    """`value` as an `int`, or a `ValueError` if it is not a whole number of at least 0."""
    if not _is_whole(value, least=0):
        raise ValueError(f"`{name}` must be a whole number of at least 0; got {short_repr(value)}.")
    return int(value)


def as_counts(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    """Each value as `as_count` gives it."""
    return tuple(as_count(name, value) for value in values)


def as_size(name: str, value: Any) -> int | tuple[int, int]:
    """`value` as one number for a square or as (height, width), in pixels, or a `ValueError`."""
    sides: tuple[Any, ...] = (
        value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    )
    if not all(_is_whole(side, least=1) for side in sides):
        raise ValueError(
            f"`{name}` must be a whole number above 0, or (height, width); got {short_repr(value)}."
        )
    if max(sides) > MAX_SIDE:
        raise ValueError(
            f"`{name}` must be at most {MAX_SIDE:,} pixels a side; got {short_repr(value)}."
        )
    height, width = (int(side) for side in sides)
    return height if height == width else (height, width)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as a pair or as one number for a square."""
    return (size, size) if isinstance(size, int) else size


def is_finite(value: Any) -> bool:
    """Whether `value` is a number that is finite in float32."""
    # Compared, since `math.isfinite` raises for an integer beyond floats.
    number = _as_python(value)
    return isinstance(number, Real) and -_FLOAT32_MAX <= cast(float, number) <= _FLOAT32_MAX


def as_finite(name: str, value: Any) -> float:
    """`value`, a number or an array of no axes, as a `float`, or a `ValueError` if it is not
    finite in float32."""
    number = _as_python(value)
    if not is_finite(number):
        raise ValueError(f"`{name}` must be a finite number; got {short_repr(value)}.")
    return float(number)


def as_positive(name: str, value: Any) -> float:
    """`value` as a `float`, or a `ValueError` if it is not a finite number above 0."""
    # Compared, since `float` raises for an integer beyond floats.
    number = _as_python(value)
    if not (isinstance(number, Real) and 0 < cast(float, number) <= sys.float_info.max):
        raise ValueError(f"`{name}` must be a number above 0; got {short_repr(value)}.")
    return float(number)


def _as_python(value: Any) -> Any:
    """A number of NumPy, or an array of no axes, as Python's."""
    is_number = isinstance(value, np.generic) or (isinstance(value, AnyArray) and value.ndim == 0)
    return value.item() if is_number else value


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in tuple(choices):
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}; got {short_repr(value)}."
        )


def canonicalize(config: Any, check: Callable[[str, Any], Any], *names: str) -> None:
    """Brings fields of a frozen configuration to their one form, by a function of this file."""
    for name in names:
        object.__setattr__(config, name, check(name, getattr(config, name)))


def _is_whole(value: Any, *, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_key(key: Key) -> Key:
    """`key`, if it is one random key, of JAX's newer or older kind; else `ValueError`."""
    is_typed = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_raw = isinstance(key, AnyArray) and not is_typed and key.dtype == jnp.uint32
    if not (is_typed or is_raw) or key.ndim != (1 if is_raw else 0):
        raise ValueError(
            f"`key` must be one random key, such as `jax.random.key(0)`; got {short_repr(key)}."
        )
    return key


def check_features(image: Input, text: Input, embed_dim: int) -> None:
    shapes = np.shape(image), np.shape(text)
    if any(len(shape) not in (1, 2) or shape[-1] != embed_dim for shape in shapes):
        raise ValueError(
            f"Expected image features (images, {embed_dim}) and text features (texts, "
            f"{embed_dim}), or one vector; got {shapes[0]} and {shapes[1]}. This model's own are "
            "`jax.vmap(model.encode_image)(images)` and `jax.vmap(model.encode_text)(tokens)`."
        )


def check_dtype(dtype: DType) -> np.dtype:
    """`dtype`, if towers compute in it; else `ValueError`."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        names = ", ".join(map(repr, DTYPES))
        raise ValueError(f"`dtype` must be of floats, one of {names}; got {short_repr(dtype)}.")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise ValueError(
            "`dtype=float64` needs JAX's 64-bit mode: "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )
    return found


def check_token_count(name: str, count: int) -> None:
    if count > MAX_TOKENS:
        raise ValueError(f"`{name}` must give at most {MAX_TOKENS:,} tokens; it gives {count:,}.")


def as_mlp_ratio(width: int, ratio: float) -> float:
    """`ratio` as `mlp_ratio` has it, so that configurations of equal sizes are equal; or a
    `ValueError` if there is no hidden layer of `int(width * ratio)` numbers."""
    if not 1 <= width * ratio <= _INT64_MAX:
        raise ValueError(
            f"`mlp_ratio={ratio}` must give a hidden layer of at least one number, and fewer than "
            f"2**63; the width is {width}."
        )
    return mlp_ratio(width, int(width * ratio))


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio of which `int(width * ratio)` is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"`width={width}` must be a multiple of `num_heads={num_heads}`.")


def did_you_mean(given: str, names: Sequence[str]) -> str:
    """' Did you mean ...?' with the nearest of `names`, or nothing. Letter case does not count."""
    by_spelling = {name.lower().replace("_", "-"): name for name in names}
    close = get_close_matches(given.lower().replace("_", "-"), by_spelling, n=1, cutoff=0.5)
    return f" Did you mean {by_spelling[close[0]]!r}?" if close else ""
