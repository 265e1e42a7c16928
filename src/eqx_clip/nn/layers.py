"""What the towers are built of: convolution, attention, MLP, and a block of the last two."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Bool, Float, PRNGKeyArray

from .._types import Activation, at_least_float32
from .mesh_axes import automatic
from .module import Module
from .stack import Index, Policy


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


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "quick_gelu": quick_gelu}


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


class PatchConv2d(eqx.Module):
    """A convolution over patches that do not overlap: the stride is the size of the kernel.

    Maps one channels-last feature map; the weight has PyTorch's layout (OIHW). Rows and columns
    beyond the last whole patch are not seen. Initialised as PyTorch does.
    """

    weight: Float[Array, "out in kernel_height kernel_width"]
    bias: Float[Array, " out"] | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: tuple[int, int],
        *,
        use_bias: bool = True,
        key: PRNGKeyArray,
    ):
        weight_key, bias_key = jr.split(key)
        bound = (in_channels * math.prod(patch_size)) ** -0.5
        self.weight = uniform(weight_key, (out_channels, in_channels, *patch_size), bound)
        self.bias = uniform(bias_key, (out_channels,), bound) if use_bias else None

    @automatic
    def __call__(self, x: Float[Array, "height width in"]) -> Float[Array, "rows columns out"]:
        # One matrix product of all patches: XLA's convolution is three times slower on a CPU.
        out, channels, height, width = self.weight.shape
        rows, columns = x.shape[0] // height, x.shape[1] // width
        x = x[: rows * height, : columns * width]
        patches = x.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
        y = patches.reshape(rows, columns, -1) @ self.weight.reshape(out, -1).T
        return y if self.bias is None else y + self.bias[None, None]


LayerT = TypeVar("LayerT", eqx.nn.Linear, PatchConv2d)


def with_weight(layer: LayerT, weight: Array) -> LayerT:
    """`layer` with this weight, and zeros for its bias."""
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        layer,
        (weight, jnp.zeros(weight.shape[0], weight.dtype)),
    )


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


class MLP(eqx.Module):
    """Two linear layers around an activation, along the last axis."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        *,
        activation: Activation,
        use_final_bias: bool = True,
        key: PRNGKeyArray,
    ):
        up_key, down_key = jr.split(key)
        self.up = linear(width, hidden, key=up_key)
        self.down = linear(hidden, out, use_bias=use_final_bias, key=down_key)
        self.activation = activation

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... out"]:
        hidden = ACTIVATIONS[self.activation](over_last(self.up, x))
        return over_last(self.down, hidden)


class Block(Module):
    """A pre-norm transformer block: OpenCLIP's `ResidualAttentionBlock`."""

    ln_1: eqx.nn.LayerNorm
    attn: Attention
    ln_2: eqx.nn.LayerNorm
    mlp: MLP

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        *,
        activation: Activation,
        causal: bool,
        key: PRNGKeyArray,
    ):
        attn_key, mlp_key = jr.split(key)
        self.ln_1 = layer_norm(width)
        self.attn = Attention(width, num_heads, causal=causal, key=attn_key)
        self.ln_2 = layer_norm(width)
        self.mlp = MLP(width, mlp_width, width, activation=activation, key=mlp_key)

    @property
    def policy(self) -> Policy:
        """What a stack keeps of each block for the gradient: the outputs of its linear layers.

        The rest, elementwise but for a hundredth of the work, is computed again, which takes less
        time than to write it to memory and read it back.
        """
        return jax.checkpoint_policies.dots_with_no_batch_dims_saveable

    @property
    def is_standard(self) -> bool:
        """Whether it is still known which tokens meet where: not if you put another attention or
        MLP in place of these, or made a subclass."""
        parts = (type(self), type(self.attn), type(self.mlp))
        return parts == (Block, Attention, MLP)

    @automatic
    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        x = x + self.attn(jax.vmap(self.ln_1)(x))
        return x + self.mlp(jax.vmap(self.ln_2)(x))

    def at(self, x: Float[Array, "tokens width"], i: Index) -> Float[Array, " width"]:
        """`self(x)[i]`, in a standard block without computing what other tokens alone need."""
        if not self.is_standard:
            return self(x)[i]
        y = x[i] + self.attn.at(jax.vmap(self.ln_1)(x), i)
        return y + self.mlp(self.ln_2(y))
