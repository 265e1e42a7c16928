"""The block of OpenCLIP's residual network."""

import itertools

import equinox as eqx
import jax
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._types import at_least_float32
from .batch_norm import BatchNorm2d
from .conv import Conv2d
from .mesh_axes import automatic
from .module import Module


EXPANSION = 4  # output channels of a bottleneck, of those inside it


class Downsample(eqx.Module):
    """A bottleneck's shortcut where its output has another shape: pool, project, normalise."""

    conv: Conv2d
    bn: BatchNorm2d
    stride: int = eqx.field(static=True)

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, key: PRNGKeyArray):
        self.conv = Conv2d(in_channels, out_channels, 1, use_bias=False, key=key)
        self.bn = BatchNorm2d(out_channels)
        self.stride = stride

    def __call__(self, x: Float[Array, "height width in"]) -> Float[Array, "rows columns out"]:
        return normalized(self.conv, self.bn, average_pool(x, self.stride))


class Bottleneck(Module):
    """Three convolutions with a shortcut around them: `open_clip.modified_resnet.Bottleneck`.

    With a stride the map is averaged after the second convolution.
    """

    conv1: Conv2d
    bn1: BatchNorm2d
    conv2: Conv2d
    bn2: BatchNorm2d
    conv3: Conv2d
    bn3: BatchNorm2d
    downsample: Downsample | None
    stride: int = eqx.field(static=True)

    def __init__(self, in_channels: int, width: int, stride: int, *, key: PRNGKeyArray):
        keys, out_channels = jr.split(key, 4), EXPANSION * width
        self.conv1 = Conv2d(in_channels, width, 1, use_bias=False, key=keys[0])
        self.bn1 = BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, padding=1, use_bias=False, key=keys[1])
        self.bn2 = BatchNorm2d(width)
        self.conv3 = Conv2d(width, out_channels, 1, use_bias=False, key=keys[2])
        self.bn3 = BatchNorm2d(out_channels, gain=0.0)
        is_plain = stride == 1 and in_channels == out_channels
        self.downsample = (
            None if is_plain else Downsample(in_channels, out_channels, stride, key=keys[3])
        )
        self.stride = stride

    def flops(self, rows: int, columns: int) -> int:
        """The operations of a map of this size, from shapes alone; of all blocks of a stack."""
        whole = self.conv1.weight.size + self.conv2.weight.size
        pooled = self.conv3.weight.size
        if self.downsample is not None:
            pooled += self.downsample.conv.weight.size
        pixels = (rows // self.stride) * (columns // self.stride)
        return 2 * (rows * columns * whole + pixels * pooled)

    @automatic
    def __call__(self, x: Float[Array, "height width in"]) -> Float[Array, "rows columns out"]:
        """Gives the dtype of `x`; each convolution, its normalisation and activation follow each
        other in at least float32."""
        y = jax.nn.relu(normalized(self.conv1, self.bn1, x)).astype(x.dtype)
        y = jax.nn.relu(normalized(self.conv2, self.bn2, y)).astype(x.dtype)
        y = normalized(self.conv3, self.bn3, average_pool(y, self.stride))
        shortcut = x if self.downsample is None else self.downsample(x)
        return jax.nn.relu(y + shortcut.astype(y.dtype)).astype(x.dtype)


def average_pool(x: Float[Array, "height width c"], size: int) -> Float[Array, "rows columns c"]:
    """The mean of each square of `size` pixels a side; what fills no square is not seen."""
    if size == 1:
        return x
    height, width = (side // size * size for side in x.shape[:2])
    wide = x.astype(at_least_float32(x.dtype))
    # XLA's reductions over short axes are slower on a CPU than the sum of shifted maps.
    shifts = itertools.product(range(size), repeat=2)
    first, *others = (wide[i:height:size, j:width:size] for i, j in shifts)
    return (sum(others, start=first) / size**2).astype(x.dtype)


def normalized(
    conv: Conv2d, norm: BatchNorm2d, x: Float[Array, "height width in"]
) -> Float[Array, "rows columns out"]:
    """Convolution and normalisation, in at least float32."""
    return norm(conv(x, dtype=at_least_float32(x.dtype)))
