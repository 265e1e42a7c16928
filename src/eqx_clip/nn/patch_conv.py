"""Convolutions over patches that do not overlap."""

import math
from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .linear import uniform
from .mesh_axes import automatic


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
