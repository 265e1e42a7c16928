"""Multi-head self-attention, by the kernel that suits the platform."""

import contextlib
import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Bool, Float, PRNGKeyArray

from .._types import at_least_float32
from .linear import linear, over_last, uniform
from .patch_conv import with_weight
from .stack import Index


class Attention(eqx.Module):
    """Multi-head self-attention with one projection for queries, keys and values.

    Initialised as PyTorch's `MultiheadAttention`: a Xavier-uniform `qkv`, zero biases.
    """

    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, width: int, num_heads: int, *, causal: bool, key: PRNGKeyArray):
        qkv_key, out_key = jr.split(key)
        bound = math.sqrt(6 / (width + 3 * width))
        self.qkv = with_weight(
            linear(width, 3 * width, key=jr.clone(qkv_key)),
            uniform(qkv_key, (3 * width, width), bound),
        )
        out = linear(width, width, key=out_key)
        self.out = with_weight(out, out.weight)
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
        return self.out(_attend_plainly(q, k, v, seen).reshape(-1))

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
    if q.dtype not in (jnp.float32, jnp.float64) and _has_cudnn():
        return _attend_by_cudnn(causal, q, k, v)
    return _attend_by_xla(causal, q, k, v)


def _attend_by_xla(causal: bool, q: Array, k: Array, v: Array) -> Array:
    def plainly(q, k, v):
        return _attend_plainly(q, k, v, jnp.tri(len(q), dtype=bool) if causal else None)

    if q.dtype == jnp.float64:  # of which JAX's function takes the softmax in float32
        return plainly(q, k, v)
    attend = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
    # On a CPU JAX's function is slower, and cannot do float16.
    with _promoting():
        return jax.lax.platform_dependent(q, k, v, cpu=plainly, default=attend)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend_by_cudnn(causal: bool, q: Array, k: Array, v: Array) -> Array:
    by_xla = functools.partial(_attend_by_xla, causal)
    by_cudnn = functools.partial(
        jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn"
    )
    with (
        contextlib.suppress(NotImplementedError),
        _promoting(),
    ):  # where cuDNN has no kernel for this size
        return jax.lax.platform_dependent(q, k, v, cuda=by_cudnn, default=by_xla)
    return by_xla(q, k, v)


@_attend_by_cudnn.defjvp
def _attend_by_cudnn_jvp(causal, primals, tangents):
    # cuDNN has no forward derivatives, and no backward ones for an odd number of tokens.
    return jax.jvp(functools.partial(_attend_by_xla, causal), primals, tangents)


def _promoting() -> contextlib.AbstractContextManager:
    """For JAX's attention, which promotes half precision even where a user forbids it."""
    return jax.numpy_dtype_promotion("standard")


def _has_cudnn() -> bool:
    """Whether the default device is an NVIDIA GPU with flash attention, Ampere or newer."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return False
    return float(device.compute_capability) >= 8


def _attend_plainly(
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
