"""Convolutions of each channel by itself."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType
from jaxtyping import Float, PRNGKeyArray

from .._types import at_least_float32
from .initializers import Initializer


class DepthwiseConv2d(eqx.Module):
    """A convolution of each channel by itself, padded with zeros, of one channels-last map."""

    weight: Float[Array, "channels 1 size size"]
    bias: Float[Array, " channels"]

    def __init__(self, channels: int, size: int, *, weight_init: Initializer, key: PRNGKeyArray):
        self.weight = weight_init(key, (channels, 1, size, size))
        self.bias = jnp.zeros(channels, jnp.float32)

    def __call__(self, x: Float[Array, "height width c"]) -> Float[Array, "height width c"]:
        y = jax.lax.platform_dependent(
            x, self.weight, cpu=_depthwise_on_cpu, default=_native_depthwise
        )
        return y + self.bias[None, None]


def _native_depthwise(x: Array, weight: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x[None],
        weight,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=x.shape[-1],
    )[0]


def _depthwise_on_cpu(x: Array, weight: Array) -> Array:
    # XLA's grouped convolution is many times slower on a CPU than the sum of shifted products. In
    # two halves of the kernel's rows: a loop's body is not spread over what comes next, where XLA
    # would compute it several times. The shifted copies are not kept for the gradient.
    (height, width, channels), size = x.shape, weight.shape[-1]
    half, dtype = size // 2 + 1, at_least_float32(x.dtype)
    # One cache line more for each pixel: shifted by a power of two, all would share a few lines.
    kernel = weight[:, 0].transpose(1, 2, 0).astype(dtype)
    kernel = jnp.pad(kernel, ((0, 2 * half - size), (0, 0), (0, 16)))
    padded = jnp.pad(x.astype(dtype), ((size // 2, half), (size // 2, size // 2), (0, 16)))

    @jax.checkpoint
    def add_half(y, i):
        rows = jax.lax.dynamic_slice_in_dim(padded, i * half, height + half - 1)
        weights = jax.lax.dynamic_slice_in_dim(kernel, i * half, half)
        products = (
            rows[j : j + height, k : k + width, :channels] * weights[j, k, None, None, :channels]
            for j, k in itertools.product(range(half), range(size))
        )
        return sum(products, start=y), None

    # Inside `jax.shard_map` a sum starts from zeros that vary as `x` does; elsewhere such zeros
    # would be kept for the gradient.
    is_manual = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    zeros = jnp.zeros_like(x, dtype) if is_manual else jnp.zeros(x.shape, dtype)
    return jax.lax.scan(add_half, zeros, jnp.arange(2))[0].astype(x.dtype)
