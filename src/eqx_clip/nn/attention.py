"""Multi-head self-attention, by the kernel that suits the platform."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Bool, Float, PRNGKeyArray

from .._types import at_least_float32
from .initializers import Initializer, uniform, zeros
from .linear import linear, over_last
from .stack import Index


class Attention(eqx.Module):
    """Multi-head self-attention with one projection for queries, keys and values.

    `causal`: whether a token attends to itself and those before it only. Biases are zeros at first,
    and what is not said of the weights is that of PyTorch's `MultiheadAttention`: a Xavier-uniform
    `qkv`, the default of a linear layer for `out`.
    """

    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        causal: bool = False,
        qkv_init: Initializer | None = None,
        out_init: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        qkv_key, out_key = jr.split(key)
        xavier = uniform(math.sqrt(6 / (width + 3 * width)))
        self.qkv = linear(
            width, 3 * width, weight_init=qkv_init or xavier, bias_init=zeros, key=qkv_key
        )
        self.out = linear(width, width, weight_init=out_init, bias_init=zeros, key=out_key)
        self.num_heads, self.causal = num_heads, causal

    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        q, k, v = self._heads(x)
        y = _attend(q, k, v, causal=self.causal)
        return over_last(self.out, y.reshape(x.shape))

    def at(self, x: Float[Array, "tokens width"], i: Index) -> Float[Array, " width"]:
        """`self(x)[i]`, without the other tokens' scores and outputs."""
        # Their queries are computed, under a hundredth of a tower of 12 blocks: without them the
        # gradient of `qkv` is made of two parts, which XLA puts together slowly on a CPU.
        q, k, v = self._heads(x)
        q = q[i][None]
        seen = (jnp.arange(len(x)) <= i)[None] if self.causal else None
        return self.out(attend_plainly(q, k, v, seen).reshape(-1))

    def _heads(self, x: Float[Array, "tokens width"]) -> list[Float[Array, "tokens heads size"]]:
        """Queries, keys and values."""
        # Split, since the gradient of three slices would be a sum of padded arrays.
        parts = jax.lax.split(over_last(self.qkv, x), [x.shape[-1]] * 3, axis=1)
        return [part.reshape(len(x), self.num_heads, -1) for part in parts]


def _attend(
    q: Float[Array, "tokens heads size"],
    k: Float[Array, "tokens heads size"],
    v: Float[Array, "tokens heads size"],
    *,
    causal: bool,
) -> Float[Array, "tokens heads size"]:
    def plainly(q, k, v):
        return attend_plainly(q, k, v, jnp.tri(len(q), dtype=bool) if causal else None)

    if q.dtype == jnp.float64:  # of which JAX's function takes the softmax in float32
        return plainly(q, k, v)
    attend = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
    # On a CPU JAX's function is slower, and cannot do float16. It promotes half precision even
    # where a user forbids it. Its kernel of cuDNN asks which GPU the tracing machine has.
    with jax.numpy_dtype_promotion("standard"):
        return jax.lax.platform_dependent(q, k, v, cpu=plainly, default=attend)


def attend_plainly(
    q: Float[Array, "queries heads size"],
    k: Float[Array, "tokens heads size"],
    v: Float[Array, "tokens heads size"],
    seen: Bool[Array, "queries tokens"] | None,
) -> Float[Array, "queries heads size"]:
    """Attention as its formula says, in at least float32, normalised after the sum over tokens."""
    dtype, out_dtype = at_least_float32(q.dtype), v.dtype
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    scores = jnp.einsum("qhd,khd->hqk", q / math.sqrt(q.shape[-1]), k)
    if seen is not None:  # added, which XLA fuses better on a CPU than a choice
        scores += jnp.where(seen, 0.0, -jnp.inf).astype(dtype)[None]
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    y = jnp.einsum("hqk,khd->qhd", weights, v) / weights.sum(-1).T[..., None]
    return y.astype(out_dtype)
