"""Batch normalisation by statistics that are known already."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int32, PyTree

from .._types import at_least_float32
from .module import Module


BATCH_NORM_EPS = 1e-5
_COUNTER = "num_batches_tracked"
_BUFFERS = ("running_mean", "running_var", _COUNTER)


class BatchNorm2d(Module):
    """Normalises each channel of a channels-last map: PyTorch's `BatchNorm2d` in its eval mode.

    The statistics are frozen. They are what the checkpoint says, take no gradient, and no forward
    pass updates them. Of a new model they are mean 0 and variance 1 and stay so: trained from
    scratch, the layer is a learned scale and shift of each channel and normalises nothing.
    `num_batches_tracked` is never used, only kept, so that files come back to the bit.
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    running_mean: Float[Array, " channels"]
    running_var: Float[Array, " channels"]
    num_batches_tracked: Int32[Array, ""]

    def __init__(self, channels: int, *, gain: float = 1.0):
        """`gain`: of each channel. By default as in PyTorch, nothing is changed but for epsilon."""
        self.weight = jnp.full(channels, gain, jnp.float32)
        self.bias = jnp.zeros(channels, jnp.float32)
        self.running_mean = jnp.zeros(channels, jnp.float32)
        self.running_var = jnp.ones(channels, jnp.float32)
        self.num_batches_tracked = jnp.zeros((), jnp.int32)

    def __call__(self, x: Float[Array, "height width c"]) -> Float[Array, "height width c"]:
        """Computes in at least float32 and gives the dtype of `x`."""
        scale, shift = self.scale_and_shift()
        dtype = at_least_float32(x.dtype, scale.dtype)
        y = x.astype(dtype) * scale.astype(dtype)[None, None] + shift.astype(dtype)[None, None]
        return y.astype(x.dtype)

    def scale_and_shift(self) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
        """What the layer multiplies each channel by and then adds, in at least float32."""
        dtype = at_least_float32(self.weight.dtype, self.running_var.dtype)
        mean, variance = (
            jax.lax.stop_gradient(x).astype(dtype) for x in (self.running_mean, self.running_var)
        )
        scale = self.weight.astype(dtype) / jnp.sqrt(variance + BATCH_NORM_EPS)
        return scale, self.bias.astype(dtype) - mean * scale


def buffers(tree: PyTree) -> PyTree[bool]:
    """`tree` with True for each leaf that is a buffer, and False for each that is a parameter.

    Buffers are the statistics of batch normalisation and their counter: never trained, never
    decayed, saved unchanged. `tree` is a module, or what `equinox.filter` leaves of one.
    """
    return jax.tree.map(_flags, tree, is_leaf=_is_batch_norm)


def is_counter(path: tuple) -> bool:
    """Whether the path of a leaf, as JAX gives it, is that of a buffer of integers."""
    return getattr(path[-1], "name", None) == _COUNTER


def _flags(node: PyTree) -> PyTree[bool]:
    if not _is_batch_norm(node):
        return False
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].name in _BUFFERS, node)


def _is_batch_norm(node: PyTree) -> bool:
    return isinstance(node, BatchNorm2d)
