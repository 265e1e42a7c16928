"""Convolutions over patches that do not overlap."""

import math

import equinox as eqx
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._checks import pair
from .._types import Size
from .initializers import Initializer, torch_default
from .mesh_axes import automatic


def patch_grid(image_size: Size, patch_size: Size) -> tuple[int, int]:
    """Rows and columns of whole patches. `ValueError` for an image that does not hold one."""
    (height, width), (patch_height, patch_width) = pair(image_size), pair(patch_size)
    rows, columns = height // patch_height, width // patch_width
    if not rows * columns:
        raise ValueError(
            f"`image_size={image_size}` must hold at least one patch of `patch_size={patch_size}`."
        )
    return rows, columns


class PatchConv2d(eqx.Module):
    """A convolution over patches that do not overlap: the stride is the size of the kernel.

    Maps one channels-last feature map; the weight has PyTorch's layout (OIHW). Rows and columns
    beyond the last whole patch are not seen. What is not said of its initialisation is PyTorch's.
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
        weight_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        weight_key, bias_key = jr.split(key)
        default, shape = torch_default(in_channels * math.prod(patch_size)), (out_channels,)
        self.weight = (weight_init or default)(weight_key, (*shape, in_channels, *patch_size))
        self.bias = (bias_init or default)(bias_key, shape) if use_bias else None

    @automatic
    def __call__(self, x: Float[Array, "height width in"]) -> Float[Array, "rows columns out"]:
        # One matrix product of all patches: XLA's convolution is three times slower on a CPU.
        out, channels, height, width = self.weight.shape
        rows, columns = x.shape[0] // height, x.shape[1] // width
        x = x[: rows * height, : columns * width]
        patches = x.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
        y = patches.reshape(rows, columns, -1) @ self.weight.reshape(out, -1).T
        return y if self.bias is None else y + self.bias[None, None]
