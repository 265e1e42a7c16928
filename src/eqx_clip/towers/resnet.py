"""OpenCLIP's residual network, whose last pooling is attention."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._checks import as_count, as_counts, as_size, canonicalize, check_image, pair
from .._types import Count, Input, Size
from ..nn.attention_pool import AttentionPool2d
from ..nn.batch_norm import BatchNorm2d
from ..nn.bottleneck import EXPANSION, Bottleneck, average_pool, normalized
from ..nn.conv import Conv2d
from ..nn.layer_groups import LayerGroups, along_depth
from ..nn.mesh_axes import automatic
from ..nn.module import Module
from ..nn.stack import Stack


REDUCTION = 32  # pixels of a side, of each position of the last map


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes of a `ModifiedResNet`.

    `image_size`: pixels, or (height, width). `depths`: bottlenecks of each of the four stages.
    `width`: channels after the stem; the last map has 32 times as many. `num_heads`: of the
    attention that pools, OpenCLIP's `vision_cfg.width * 32 // vision_cfg.head_width`.
    """

    image_size: Size = 224
    depths: tuple[Count, ...]
    width: Count = 64
    embed_dim: Count
    num_heads: Count

    def __post_init__(self):
        canonicalize(self, as_counts, "depths")
        canonicalize(self, as_count, "width", "embed_dim", "num_heads")
        canonicalize(self, as_size, "image_size")
        if len(self.depths) != 4:
            raise ValueError(f"`depths={self.depths}` must be four numbers, one for each stage.")
        if self.width < 2:
            raise ValueError(f"`width` must be at least 2; got {self.width}.")
        if self.last_width % self.num_heads:
            raise ValueError(
                f"The last map's channels, 32 times `width={self.width}`, must be a multiple of "
                f"`num_heads={self.num_heads}`."
            )
        if math.prod(self.grid) == 0:
            raise ValueError(
                f"`image_size={self.image_size}` must be at least {REDUCTION - 1} pixels a side; "
                "of smaller images nothing is left in the last map."
            )

    @property
    def last_width(self) -> int:
        """Channels of the last map."""
        return 8 * EXPANSION * self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map."""
        height, width = pair(self.image_size)
        # The first convolution rounds up, the four pools round down.
        return (height + 1) // 2 // 16, (width + 1) // 2 // 16

    def with_quick_gelu(self) -> "ResNetConfig":
        """Itself: there is no GELU in it."""
        return self

    def build(self, *, key: PRNGKeyArray) -> "ModifiedResNet":
        return ModifiedResNet(self, key=key)


class Stage(eqx.Module):
    """Bottlenecks of one width. The first changes channels and size, so it stands by itself."""

    first: Bottleneck
    stack: Stack[Bottleneck] | None

    def __init__(self, in_channels: int, width: int, depth: int, stride: int, *, key: PRNGKeyArray):
        first_key, stack_key = jr.split(key)
        self.first = Bottleneck(in_channels, width, stride, key=first_key)
        self.stack = (
            Stack(
                lambda key: Bottleneck(EXPANSION * width, width, 1, key=key),
                depth - 1,
                key=stack_key,
            )
            if depth > 1
            else None
        )

    def __call__(self, x: Float[Array, "height width in"]) -> Float[Array, "rows columns out"]:
        x = self.first(x)
        return x if self.stack is None else self.stack(x)


class ModifiedResNet(Module):
    """Maps one image to one vector: `open_clip.modified_resnet.ModifiedResNet`.

    A stem of three convolutions, four stages of bottlenecks that average where others stride, and
    attention as the last pool (Radford et al. 2021, arXiv:2103.00020, section 2.4). Batch
    normalisation keeps the statistics of its checkpoint; those of a new tower, means of 0 and
    variances of 1, normalise nothing, so train it from weights.
    """

    conv1: Conv2d
    bn1: BatchNorm2d
    conv2: Conv2d
    bn2: BatchNorm2d
    conv3: Conv2d
    bn3: BatchNorm2d
    layer1: Stage
    layer2: Stage
    layer3: Stage
    layer4: Stage
    attnpool: AttentionPool2d
    config: ResNetConfig = eqx.field(static=True)

    def __init__(self, config: ResNetConfig, *, key: PRNGKeyArray):
        """Initialised as OpenCLIP does: PyTorch's defaults, zeros for each bottleneck's last gain,
        and normals of 1/sqrt(width) for the projections of the attention."""
        conv1_key, conv2_key, conv3_key, stages_key, pool_key = jr.split(key, 5)
        width, half = config.width, config.width // 2
        self.conv1 = Conv2d(3, half, 3, stride=2, padding=1, use_bias=False, key=conv1_key)
        self.bn1 = BatchNorm2d(half)
        self.conv2 = Conv2d(half, half, 3, padding=1, use_bias=False, key=conv2_key)
        self.bn2 = BatchNorm2d(half)
        self.conv3 = Conv2d(half, width, 3, padding=1, use_bias=False, key=conv3_key)
        self.bn3 = BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(config, key=stages_key)
        self.attnpool = AttentionPool2d(
            math.prod(config.grid),
            config.last_width,
            config.num_heads,
            config.embed_dim,
            key=pool_key,
        )
        self.config = config

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    @property
    def stages(self) -> tuple[Stage, Stage, Stage, Stage]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def layer_groups(self) -> LayerGroups:
        """The stem, each bottleneck, the attention. OpenCLIP locks such a tower only whole."""
        starts = (1 + np.cumsum([0, *self.config.depths])).tolist()

        def group(path: tuple, leaf: Any) -> np.ndarray:
            field = path[0].name
            if not field.startswith("layer"):
                return np.asarray(starts[-1] if field == "attnpool" else 0)
            start = starts[int(field.removeprefix("layer")) - 1]
            return np.asarray(start) if path[1].name == "first" else along_depth(start + 1, leaf)

        groups = jax.tree_util.tree_map_with_path(group, self)
        return LayerGroups(groups, starts[-1] + 1)

    def flops(self) -> int:
        """The operations of one image, from shapes alone, all queries of the attention counted."""
        height, width = pair(self.config.image_size)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        stem = sum(conv.weight.size for conv in (self.conv1, self.conv2, self.conv3))
        total = 2 * rows * columns * stem
        rows, columns = rows // 2, columns // 2
        for stage in self.stages:
            total += stage.first.flops(rows, columns)
            rows, columns = rows // stage.first.stride, columns // stage.first.stride
            if stage.stack is not None:
                total += stage.stack.block.flops(rows, columns)
        return total + self.attnpool.flops()

    @automatic
    def __call__(self, image: Input) -> Float[Array, " embed"]:
        """The un-normalised projection of one image, a float array (3, height, width).

        Computes in the dtype of the weights. Raises `ValueError` for a batch, for channels last,
        for another size and for pixels that are not normalised yet.
        """
        return self._project(self._check(image))

    @automatic
    def features(self, image: Input) -> Float[Array, "width rows columns"]:
        """The last map before the attention, channels first."""
        return self._trunk(self._check(image)).transpose(2, 0, 1)

    @automatic
    def intermediates(self, image: Input) -> tuple[Float[Array, "_width _rows _columns"], ...]:
        """The maps after the stem and after each stage, channels first: five arrays, those of
        OpenCLIP's `forward_intermediates`."""
        outputs = [self._stem(self._check(image))]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return tuple(y.transpose(2, 0, 1) for y in outputs)

    @eqx.filter_jit
    def _project(self, image: Float[Array, "3 height width_px"]) -> Float[Array, " embed"]:
        return self.attnpool(self._trunk(image))

    def _check(self, image: Input) -> Float[Array, "3 height width_px"]:
        return check_image(image, pair(self.config.image_size))

    def _trunk(
        self, image: Float[Array, "3 height width_px"]
    ) -> Float[Array, "rows columns width"]:
        x = self._stem(image)
        for stage in self.stages:
            x = stage(x)
        return x

    def _stem(self, image: Float[Array, "3 height width_px"]) -> Float[Array, "rows columns width"]:
        dtype = self.conv1.weight.dtype
        x = image.astype(dtype).transpose(1, 2, 0)
        for conv, norm in (
            (self.conv1, self.bn1),
            (self.conv2, self.bn2),
            (self.conv3, self.bn3),
        ):
            x = jax.nn.relu(normalized(conv, norm, x)).astype(dtype)
        return average_pool(x, 2)


def _stages(config: ResNetConfig, *, key: PRNGKeyArray) -> tuple[Stage, Stage, Stage, Stage]:
    widths = [config.width * 2**i for i in range(4)]
    inputs = [config.width, *(EXPANSION * width for width in widths[:3])]
    sizes = zip(inputs, widths, config.depths, (1, 2, 2, 2), strict=True)
    first, second, third, fourth = (
        Stage(*size, key=stage_key) for size, stage_key in zip(sizes, jr.split(key, 4), strict=True)
    )
    return first, second, third, fourth
