"""ConvNeXt as timm builds it, with OpenCLIP's projection head."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._checks import (
    as_count,
    as_counts,
    as_positive,
    as_size,
    canonicalize,
    check_choice,
    check_image,
    pair,
)
from .._types import Count, Head, Input, Real, Size
from ..nn.depthwise import DepthwiseConv2d
from ..nn.flops import parameters
from ..nn.initializers import normal, zeros
from ..nn.layer_groups import LayerGroups, along_depth
from ..nn.linear import layer_norm, linear
from ..nn.mesh_axes import automatic
from ..nn.mlp import MLP
from ..nn.module import Module
from ..nn.patch_conv import PatchConv2d
from ..nn.stack import Stack


# timm cuts its normal at +-2, a hundred standard deviations away: no cut at all.
INIT = normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Sizes of a `ConvNeXt`: blocks and channels of each stage.

    The tower takes images of any size; `image_size` is the one that it was trained for. `head`:
    one linear layer, or an MLP with a hidden layer of twice `embed_dim`; both end without a bias.
    """

    image_size: Size = 224
    depths: tuple[Count, ...]
    widths: tuple[Count, ...]
    embed_dim: Count
    head: Head = "linear"
    norm_eps: Real = 1e-6

    def __post_init__(self):
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(
                f"`depths={self.depths}` and `widths={self.widths}` must be as many, one of each "
                "for every stage, and at least one."
            )
        canonicalize(self, as_counts, "depths", "widths")
        canonicalize(self, as_count, "embed_dim")
        canonicalize(self, as_size, "image_size")
        canonicalize(self, as_positive, "norm_eps")
        check_choice("head", self.head, ("linear", "mlp"))
        self.check_side(min(pair(self.image_size)))

    def check_side(self, side: int) -> None:
        """`ValueError` if nothing would be left of an image of this height or width."""
        smallest = 4 * 2 ** (len(self.depths) - 1)
        if side < smallest:
            raise ValueError(
                f"A ConvNeXt of {len(self.depths)} stages halves images to nothing below "
                f"{smallest} x {smallest} pixels; got a side of {side}."
            )

    def with_quick_gelu(self) -> "ConvNeXtConfig":
        """Itself: timm's towers keep the exact GELU."""
        return self

    def build(self, *, key: PRNGKeyArray) -> "ConvNeXt":
        return ConvNeXt(self, key=key)


class ConvNeXtBlock(Module):
    """A depthwise convolution, then LayerNorm and MLP on each pixel, scaled and added."""

    conv: DepthwiseConv2d
    norm: eqx.nn.LayerNorm
    mlp: MLP
    gamma: Float[Array, " width"]

    def __init__(self, width: int, norm_eps: float, *, key: PRNGKeyArray):
        conv_key, mlp_key = jr.split(key)
        self.conv = DepthwiseConv2d(width, 7, weight_init=INIT, key=conv_key)
        self.norm = layer_norm(width, norm_eps)
        self.mlp = MLP(
            width,
            4 * width,
            width,
            activation="gelu",
            up_init=INIT,
            down_init=INIT,
            bias_init=zeros,
            key=mlp_key,
        )
        self.gamma = jnp.full(width, 1e-6, jnp.float32)

    @automatic
    def __call__(self, x: Float[Array, "height width c"]) -> Float[Array, "height width c"]:
        pixels = self.conv(x).reshape(-1, x.shape[-1])
        y = self.mlp(jax.vmap(self.norm)(pixels)) * self.gamma[None]
        return x + y.reshape(x.shape)


class Downsample(eqx.Module):
    """LayerNorm, then a convolution that halves height and width."""

    norm: eqx.nn.LayerNorm
    conv: PatchConv2d

    def __init__(self, width: int, out: int, norm_eps: float, *, key: PRNGKeyArray):
        self.norm = layer_norm(width, norm_eps)
        self.conv = PatchConv2d(width, out, (2, 2), weight_init=INIT, bias_init=zeros, key=key)

    def __call__(self, x: Float[Array, "height width c"]) -> Float[Array, "rows columns out"]:
        return self.conv(jax.vmap(jax.vmap(self.norm))(x))


class Stage(eqx.Module):
    """Blocks of one width, after a downsampling in every stage but the first."""

    downsample: Downsample | None
    stack: Stack[ConvNeXtBlock]

    def __init__(
        self, previous: int | None, width: int, depth: int, norm_eps: float, *, key: PRNGKeyArray
    ):
        down_key, stack_key = jr.split(key)
        self.downsample = (
            None if previous is None else Downsample(previous, width, norm_eps, key=down_key)
        )
        self.stack = Stack(
            lambda key: ConvNeXtBlock(width, norm_eps, key=key), depth, key=stack_key
        )

    def before(self, x: Float[Array, "height width c"]) -> Float[Array, "rows columns out"]:
        """What the first block of this stage is given."""
        return x if self.downsample is None else self.downsample(x)


class ConvNeXt(Module):
    """Maps one image to one vector: `open_clip.timm_model.TimmModel` around timm's ConvNeXt."""

    stem: PatchConv2d
    stem_norm: eqx.nn.LayerNorm
    stages: tuple[Stage, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear | MLP
    config: ConvNeXtConfig = eqx.field(static=True)

    def __init__(self, config: ConvNeXtConfig, *, key: PRNGKeyArray):
        """Initialised as OpenCLIP does: timm's trunk (normal 0.02, gamma 1e-6), PyTorch's head."""
        stem_key, stages_key, head_key = jr.split(key, 3)
        widths, eps = config.widths, config.norm_eps
        self.stem = PatchConv2d(
            3, widths[0], (4, 4), weight_init=INIT, bias_init=zeros, key=stem_key
        )
        self.stem_norm = layer_norm(widths[0], eps)
        sizes = zip((None, *widths), widths, config.depths, strict=False)
        keys = jr.split(stages_key, len(widths))
        self.stages = tuple(
            Stage(*size, eps, key=stage_key) for size, stage_key in zip(sizes, keys, strict=True)
        )
        self.norm = layer_norm(widths[-1], eps)
        self.head = _make_head(config, head_key)
        self.config = config

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    def layer_groups(self) -> LayerGroups:
        """timm's groups: the stem, each block (a stage's first with its downsampling), the head.

        OpenCLIP locks the trunk only: the projection always learns.
        """
        starts = (1 + np.cumsum([0, *(len(stage.stack) for stage in self.stages)])).tolist()

        def group(path: tuple, leaf: Any) -> np.ndarray:
            field = path[0].name
            if field != "stages":
                return np.asarray(0 if field in ("stem", "stem_norm") else starts[-1])
            start = int(starts[path[1].idx])
            return np.asarray(start) if path[2].name == "downsample" else along_depth(start, leaf)

        groups = jax.tree_util.tree_map_with_path(group, self)
        return LayerGroups(groups, starts[-1] + 1, unlocked=("head",))

    def flops(self) -> int:
        """The operations of one image of the configuration's size, from shapes alone."""
        pixels = math.prod(pair(self.config.image_size)) // 16
        total = 2 * pixels * self.stem.weight.size
        for i, stage in enumerate(self.stages):
            total += 2 * (pixels >> 2 * i) * parameters(stage)
        return total + 2 * parameters(self.head)

    @automatic
    def __call__(self, image: Input) -> Float[Array, " embed"]:
        """The un-normalised projection of one image, a float array (3, height, width).

        Computes in the dtype of the weights. Raises `ValueError` for a batch, for channels last
        and for pixels that are not normalised yet.
        """
        return self._project(self._check(image))

    @automatic
    def features(self, image: Input) -> Float[Array, "width rows columns"]:
        """The last feature map before pooling, channels first: timm's `forward_features`."""
        return self._trunk(self._check(image)).transpose(2, 0, 1)

    @automatic
    def intermediates(self, image: Input) -> tuple[Float[Array, "depth width rows columns"], ...]:
        """Each block's output, one array a stage, channels first."""
        x, outputs = self._embed(self._check(image)), []
        for stage in self.stages:
            outputs.append(stage.stack.intermediates(stage.before(x)))
            x = outputs[-1][-1]
        return tuple(y.transpose(0, 3, 1, 2) for y in outputs)

    @eqx.filter_jit
    def _project(self, image: Float[Array, "3 height width_px"]) -> Float[Array, " embed"]:
        return self.head(self.norm(jnp.mean(self._trunk(image), axis=(0, 1))))

    def _check(self, image: Input) -> Float[Array, "3 height width_px"]:
        image = check_image(image, None)
        self.config.check_side(min(image.shape[1:]))
        return image

    def _trunk(
        self, image: Float[Array, "3 height width_px"]
    ) -> Float[Array, "rows columns width"]:
        x = self._embed(image)
        for stage in self.stages:
            x = stage.stack(stage.before(x))
        return x

    def _embed(
        self, image: Float[Array, "3 height width_px"]
    ) -> Float[Array, "rows columns width"]:
        image = image.astype(self.stem.weight.dtype)
        return jax.vmap(jax.vmap(self.stem_norm))(self.stem(image.transpose(1, 2, 0)))


def _make_head(config: ConvNeXtConfig, key: PRNGKeyArray) -> eqx.nn.Linear | MLP:
    width, embed = config.widths[-1], config.embed_dim
    if config.head == "linear":
        return linear(width, embed, use_bias=False, key=key)
    return MLP(width, 2 * embed, embed, activation="gelu", use_final_bias=False, key=key)
