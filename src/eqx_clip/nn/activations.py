"""Activations."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from .._types import at_least_float32


def gelu(x: Array) -> Array:
    """The exact GELU, by the error function as in PyTorch, in at least float32."""
    # `jax.nn.gelu` takes the complement, which XLA computes in two branches: twice as slow.
    y = x.astype(at_least_float32(x.dtype))
    return (0.5 * y * (1 + _erf(y * math.sqrt(0.5)))).astype(x.dtype)


@jax.custom_jvp
def _erf(x: Array) -> Array:
    return jax.lax.erf(x)


@_erf.defjvp
def _erf_jvp(primals, tangents):
    # JAX 0.12 takes several times as many operations for it, which fail inside `jax.shard_map`.
    (x,), (dx,) = primals, tangents
    return _erf(x), 2 / math.sqrt(math.pi) * (dx * jnp.exp(-jnp.square(x)))


def quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, the activation of OpenAI's and some later checkpoints."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu_tanh(x: Array) -> Array:
    """The GELU by a hyperbolic tangent, in at least float32: PyTorch's `approximate="tanh"`."""
    return jax.nn.gelu(x.astype(at_least_float32(x.dtype)), approximate=True).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": gelu_tanh,
}
