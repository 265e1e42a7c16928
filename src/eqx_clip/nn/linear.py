"""Linear layers and norms, and how they are applied to rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .initializers import Initializer, torch_default


def linear(
    width: int,
    out: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    key: PRNGKeyArray,
) -> eqx.nn.Linear:
    """A linear layer; what is not said of its initialisation is PyTorch's."""
    weight_key, bias_key, unused_key = jr.split(key, 3)
    default = torch_default(width)
    layer = eqx.nn.Linear(width, out, use_bias=use_bias, dtype=jnp.float32, key=unused_key)
    weight = (weight_init or default)(weight_key, (out, width))
    bias = (bias_init or default)(bias_key, (out,)) if use_bias else None
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), layer, (weight, bias), is_leaf=_is_none
    )


def _is_none(leaf: object) -> bool:
    return leaf is None


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
