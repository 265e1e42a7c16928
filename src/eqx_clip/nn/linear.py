"""Linear layers and norms, initialised as PyTorch does, and how they are applied to rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray


def normal(key: PRNGKeyArray, shape: tuple[int, ...], std: float) -> Array:
    """Float32 whatever JAX's default is, so that a seed means the same model in 64-bit mode."""
    return std * jr.normal(key, shape, jnp.float32)


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], bound: float) -> Array:
    """Float32 between -`bound` and `bound`."""
    return jr.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


def linear(width: int, out: int, *, use_bias: bool = True, key: PRNGKeyArray) -> eqx.nn.Linear:
    """A linear layer, initialised as PyTorch does."""
    return eqx.nn.Linear(width, out, use_bias=use_bias, dtype=jnp.float32, key=key)


def layer_norm(width: int, eps: float = 1e-5) -> eqx.nn.LayerNorm:
    return eqx.nn.LayerNorm(width, eps=eps, dtype=jnp.float32)


def over_last(layer: eqx.Module, x: Float[Array, "... width"]) -> Float[Array, "... out"]:
    """A layer of vectors, applied along the last axis.

    A linear layer is one matrix product of all rows: mapped, it would give its result transposed.
    """
    if type(layer) is eqx.nn.Linear:
        # Not `x @ weight.T`: a gradient would keep a transposed copy of each layer's weight.
        y = jax.lax.dot_general(x, layer.weight, (((x.ndim - 1,), (1,)), ((), ())))
        return y if layer.bias is None else y + jnp.expand_dims(layer.bias, range(y.ndim - 1))
    # A user has put another in its place.
    rows = jax.vmap(layer)(x.reshape(-1, x.shape[-1]))  # pyright: ignore[reportArgumentType]
    return rows.reshape(*x.shape[:-1], -1)
