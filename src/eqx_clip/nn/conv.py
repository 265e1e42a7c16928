"""Convolutions of one channels-last map."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import DTypeLike, Float, PRNGKeyArray

from .._types import at_least_float32
from .initializers import torch_default
from .mesh_axes import automatic


Sizes = tuple[tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]  # strides, paddings


class Conv2d(eqx.Module):
    """A convolution of one channels-last map, padded with zeros: PyTorch's `Conv2d`.

    The weight has PyTorch's layout (OIHW). `stride` and `padding` hold for height and width.
    Initialised as PyTorch does.
    """

    weight: Float[Array, "out in kernel_height kernel_width"]
    bias: Float[Array, " out"] | None
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        use_bias: bool = True,
        key: PRNGKeyArray,
    ):
        weight_key, bias_key = jr.split(key)
        init = torch_default(in_channels * size**2)
        self.weight = init(weight_key, (out_channels, in_channels, size, size))
        self.bias = init(bias_key, (out_channels,)) if use_bias else None
        self.stride, self.padding = stride, padding

    @automatic
    def __call__(
        self, x: Float[Array, "height width in"], *, dtype: DTypeLike | None = None
    ) -> Float[Array, "rows columns out"]:
        """Accumulates in at least float32 and gives `dtype`, by default that of `x` and weight."""
        common = jnp.result_type(x, self.weight)
        x, weight = x.astype(common), self.weight.astype(common)
        is_pointwise = weight.shape[2:] == (1, 1) and (self.stride, self.padding) == (1, 0)
        y = (
            _pointwise(x, weight)
            if is_pointwise
            else _convolve(x, weight, self.stride, self.padding)
        )
        if self.bias is not None:
            y = y + self.bias.astype(y.dtype)[None, None]
        return y.astype(common if dtype is None else dtype)


def _pointwise(x: Array, weight: Array) -> Array:
    """One matrix product of all pixels, in at least float32."""
    dtype = at_least_float32(x.dtype)
    return jax.lax.dot_general(
        x, weight[:, :, 0, 0], (((2,), (1,)), ((), ())), preferred_element_type=dtype
    )


def _convolve(x: Array, weight: Array, stride: int, padding: int) -> Array:
    """A convolution in the dtype of `x` and `weight`; gives at least float32."""
    sizes = (stride, stride), ((padding, padding), (padding, padding))
    native, on_cpu = (functools.partial(f, sizes) for f in (_native, _on_cpu))
    return jax.lax.platform_dependent(x, weight, cpu=on_cpu, default=native)


def _native(sizes: Sizes, x: Array, weight: Array) -> Array:
    y = jax.lax.conv_general_dilated(
        x[None], weight, *sizes, dimension_numbers=("NHWC", "OIHW", "NHWC")
    )[0]
    return y.astype(at_least_float32(x.dtype))


def _on_cpu(sizes: Sizes, x: Array, weight: Array) -> Array:
    dtype = at_least_float32(x.dtype)
    return _convolve_on_cpu(sizes, x.astype(dtype), weight.astype(dtype))


# In the body of a loop, such as a stack's, XLA has a fast convolution on a CPU for one order of
# axes only (NHWC, HWIO, NHWC), and others take ten to a hundred times as long. So each operand is
# brought to this order, here and in the derivatives, which are written so that what JAX makes of
# them for a gradient, their transpose, is in this order.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _convolve_on_cpu(sizes: Sizes, x: Array, weight: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x[None], weight.transpose(2, 3, 1, 0), *sizes, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


@_convolve_on_cpu.defjvp
def _convolve_on_cpu_jvp(sizes, primals, tangents):
    (x, weight), (dx, d_weight) = primals, tangents
    of_x = jax.lax.conv_general_dilated(
        dx[None], weight.transpose(2, 3, 0, 1), *sizes, dimension_numbers=("NHWC", "HWOI", "NHWC")
    )[0]
    of_weight = jax.lax.conv_general_dilated(
        x.transpose(2, 0, 1)[..., None],
        d_weight.transpose(1, 2, 3, 0),
        *sizes,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )[:, :, 0]
    return _convolve_on_cpu(sizes, x, weight), of_x + of_weight
