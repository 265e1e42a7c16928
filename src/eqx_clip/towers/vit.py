"""OpenCLIP's vision transformer."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._checks import (
    as_count,
    as_mlp_ratio,
    as_positive,
    as_size,
    canonicalize,
    check_choice,
    check_heads,
    check_image,
    check_token_count,
    pair,
)
from .._types import Activation, Count, ImagePooling, Input, Real, Size
from ..nn.activations import ACTIVATIONS
from ..nn.attention import Attention
from ..nn.block import Block
from ..nn.flops import transformer_flops
from ..nn.initializers import normal
from ..nn.layer_groups import LayerGroups, transformer_groups
from ..nn.linear import layer_norm
from ..nn.mesh_axes import automatic
from ..nn.mlp import MLP
from ..nn.module import Module
from ..nn.patch_conv import PatchConv2d, patch_grid
from ..nn.patch_dropout import check_patch_dropout, kept_patches
from ..nn.pooling import IMAGE_POOLINGS as POOLINGS
from ..nn.pooling import ClassToken, MeanPatch
from ..nn.stack import Stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes and parts of a `VisionTransformer`.

    - `image_size`, `patch_size`: pixels, or (height, width).
    - `pooling`: what the final LayerNorm and the projection are given, the "class_token" or the
      "mean_patch", the mean of all other tokens, as in CLIPA.
    - `norm_pre`: whether there is a LayerNorm before the blocks.
    """

    image_size: Size = 224
    patch_size: Size
    width: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Real = 4.0
    embed_dim: Count
    activation: Activation = "gelu"
    pooling: ImagePooling = "class_token"
    norm_pre: bool = True

    def __post_init__(self):
        canonicalize(self, as_size, "image_size", "patch_size")
        canonicalize(self, as_count, "width", "depth", "num_heads", "embed_dim")
        canonicalize(self, as_positive, "mlp_ratio")
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("pooling", self.pooling, tuple(POOLINGS))
        check_heads(self.width, self.num_heads)
        object.__setattr__(self, "mlp_ratio", as_mlp_ratio(self.width, self.mlp_ratio))
        check_token_count("image_size", math.prod(self.grid))

    @property
    def mlp_width(self) -> int:
        """Numbers in the hidden layer of each block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; pixels beyond the last whole patch are not seen."""
        return patch_grid(self.image_size, self.patch_size)

    def with_quick_gelu(self) -> "ViTConfig":
        return dataclasses.replace(self, activation="quick_gelu")

    def build(self, *, key: PRNGKeyArray) -> "VisionTransformer":
        return VisionTransformer(self, key=key)


class VisionTransformer(Module):
    """Maps one image to one vector: `open_clip.transformer.VisionTransformer`.

    The class token comes first, then the patches row by row.
    """

    patch: PatchConv2d
    class_embedding: Float[Array, " width"]
    positional_embedding: Float[Array, "tokens width"]
    ln_pre: eqx.nn.LayerNorm | None
    stack: Stack[Block]
    pool: ClassToken | MeanPatch
    ln_post: eqx.nn.LayerNorm
    proj: Float[Array, "width embed"]
    config: ViTConfig = eqx.field(static=True)

    def __init__(self, config: ViTConfig, *, key: PRNGKeyArray):
        """Initialised as OpenCLIP does: PyTorch's defaults, and 1/sqrt(width) for embeddings."""
        patch_key, class_key, position_key, stack_key, proj_key = jr.split(key, 5)
        width, patch_size = config.width, pair(config.patch_size)
        tokens, init = 1 + math.prod(config.grid), normal(config.width**-0.5)
        self.patch = PatchConv2d(3, width, patch_size, use_bias=False, key=patch_key)
        self.class_embedding = init(class_key, (width,))
        self.positional_embedding = init(position_key, (tokens, width))
        self.ln_pre = layer_norm(width) if config.norm_pre else None
        self.stack = Stack(lambda key: _make_block(config, key), config.depth, key=stack_key)
        self.pool = POOLINGS[config.pooling]()
        self.ln_post = layer_norm(width)
        self.proj = init(proj_key, (width, config.embed_dim))
        self.config = config

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    def layer_groups(self) -> LayerGroups:
        """The groups of OpenCLIP's `lock_image_tower`."""
        return transformer_groups(self, "ln_post", ("proj",))

    def flops(self) -> int:
        """The operations of one image, from shapes alone."""
        tokens = len(self.positional_embedding)
        ends = (tokens - 1) * self.patch.weight.size + self.proj.size
        return transformer_flops(self, tokens) + 2 * ends

    @automatic
    def __call__(
        self, image: Input, *, patch_dropout: Real = 0.0, key: PRNGKeyArray | None = None
    ) -> Float[Array, " embed"]:
        """The un-normalised projection of one image, a float array (3, height, width).

        Computes in the dtype of the weights. `patch_dropout` leaves out this share of the patches,
        chosen by `key`: for training (Li et al. 2022, arXiv:2212.00794; OpenCLIP's `PatchDropout`).

        Raises `ValueError` for a batch, for channels last, for another size, for pixels that are
        not normalised yet, and for a share that is not in [0, 1) or comes without a key.
        """
        check_patch_dropout(patch_dropout, key)
        return self._project(self._check(image), patch_dropout, key)

    @automatic
    def features(self, image: Input) -> Float[Array, "tokens width"]:
        """The tokens before pooling: the class token, then the patches.

        After the final LayerNorm; before it where that comes after pooling ("mean_patch").
        OpenCLIP's `output_tokens`, with the class token in front.
        """
        tokens = self.stack(self._embed(self._check(image)))
        return tokens if self.config.pooling == "mean_patch" else jax.vmap(self.ln_post)(tokens)

    @automatic
    def intermediates(self, image: Input) -> Float[Array, "depth tokens width"]:
        """Each block's output, before the final LayerNorm: OpenCLIP's `forward_intermediates`."""
        return self.stack.intermediates(self._embed(self._check(image)))

    @eqx.filter_jit
    def _project(
        self,
        image: Float[Array, "3 height width_px"],
        patch_dropout: float,
        key: PRNGKeyArray | None,
    ) -> Float[Array, " embed"]:
        x = self._embed(image, patch_dropout, key)
        return self.ln_post(self.pool(self.stack, x)) @ self.proj

    def _check(self, image: Input) -> Float[Array, "3 height width_px"]:
        return check_image(image, pair(self.config.image_size))

    def _embed(
        self,
        image: Float[Array, "3 height width_px"],
        patch_dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens width"]:
        image = image.astype(self.patch.weight.dtype)
        patches = self.patch(image.transpose(1, 2, 0)).reshape(-1, self.config.width)
        x = jnp.concatenate([self.class_embedding[None], patches]) + self.positional_embedding
        if key is not None and patch_dropout:
            kept = kept_patches(len(patches), patch_dropout, key)
            x = jnp.concatenate([x[:1], x[1 + kept]])
        return x if self.ln_pre is None else jax.vmap(self.ln_pre)(x)


def _make_block(config: ViTConfig, key: PRNGKeyArray) -> Block:
    attn_key, mlp_key = jr.split(key)
    width, hidden = config.width, config.mlp_width
    return Block(
        ln_1=layer_norm(width),
        attn=Attention(width, config.num_heads, key=attn_key),
        ln_2=layer_norm(width),
        mlp=MLP(width, hidden, width, activation=config.activation, key=mlp_key),
    )
