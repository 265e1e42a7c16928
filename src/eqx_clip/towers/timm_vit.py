"""timm's vision transformer, as in SigLIP."""

import dataclasses
import math

import equinox as eqx
import jax
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
from .._types import Activation, Count, Input, Real, Size
from ..nn.activations import ACTIVATIONS
from ..nn.attention import Attention
from ..nn.block import Block
from ..nn.flops import transformer_flops
from ..nn.initializers import normal, zeros
from ..nn.layer_groups import LayerGroups, transformer_groups
from ..nn.linear import layer_norm
from ..nn.map_head import MAPHead
from ..nn.mesh_axes import automatic
from ..nn.mlp import MLP
from ..nn.module import Module
from ..nn.patch_conv import PatchConv2d, patch_grid
from ..nn.patch_dropout import check_patch_dropout, kept_patches
from ..nn.stack import Stack


# timm cuts its normal at +-2, a hundred standard deviations away: no cut at all.
INIT = normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimmViTConfig:
    """Sizes and parts of a `TimmViT`; `image_size` and `patch_size` in pixels, or (height, width).

    The feature is as wide as the tower.
    """

    image_size: Size = 224
    patch_size: Size
    width: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Real = 4.0
    activation: Activation = "gelu"
    norm_eps: Real = 1e-6

    def __post_init__(self):
        canonicalize(self, as_size, "image_size", "patch_size")
        canonicalize(self, as_count, "width", "depth", "num_heads")
        canonicalize(self, as_positive, "mlp_ratio", "norm_eps")
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_heads(self.width, self.num_heads)
        object.__setattr__(self, "mlp_ratio", as_mlp_ratio(self.width, self.mlp_ratio))
        check_token_count("image_size", math.prod(self.grid))

    @property
    def embed_dim(self) -> int:
        return self.width

    @property
    def mlp_width(self) -> int:
        """Numbers in the hidden layer of each block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; pixels beyond the last whole patch are not seen."""
        return patch_grid(self.image_size, self.patch_size)

    def with_quick_gelu(self) -> "TimmViTConfig":
        """This tower: OpenCLIP's option does not reach timm's."""
        return self

    def build(self, *, key: PRNGKeyArray) -> "TimmViT":
        return TimmViT(self, key=key)


class TimmViT(Module):
    """Maps one image to one vector: `open_clip.timm_model.TimmModel` around timm's ViT of SigLIP.

    Zhai et al. 2023 (arXiv:2303.15343). There is no class token, the patches lie row by row, and
    attention from a learned query pools them: `timm.models.vision_transformer.VisionTransformer`
    with `class_token=False, global_pool="map"`.
    """

    patch: PatchConv2d
    positional_embedding: Float[Array, "tokens width"]
    stack: Stack[Block]
    ln_post: eqx.nn.LayerNorm
    map_head: MAPHead
    config: TimmViTConfig = eqx.field(static=True)

    def __init__(self, config: TimmViTConfig, *, key: PRNGKeyArray):
        """Initialised as timm does: normal 0.02 and zeros, PyTorch's default for the patches."""
        patch_key, position_key, stack_key, head_key = jr.split(key, 4)
        width, patch_size = config.width, pair(config.patch_size)
        self.patch = PatchConv2d(3, width, patch_size, key=patch_key)
        self.positional_embedding = INIT(position_key, (math.prod(config.grid), width))
        self.stack = Stack(lambda key: _make_block(config, key), config.depth, key=stack_key)
        self.ln_post = layer_norm(width, config.norm_eps)
        self.map_head = MAPHead(
            width,
            config.num_heads,
            config.mlp_width,
            activation=config.activation,
            norm_eps=config.norm_eps,
            init=INIT,
            key=head_key,
        )
        self.config = config

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    def layer_groups(self) -> LayerGroups:
        """timm's groups, which OpenCLIP's `lock_image_tower` locks: the head is the last."""
        return transformer_groups(self, "ln_post", ("map_head",))

    def flops(self) -> int:
        """The operations of one image, from shapes alone."""
        tokens = len(self.positional_embedding)
        patches = 2 * tokens * self.patch.weight.size
        return patches + transformer_flops(self, tokens) + self.map_head.flops(tokens)

    @automatic
    def __call__(
        self, image: Input, *, patch_dropout: Real = 0.0, key: PRNGKeyArray | None = None
    ) -> Float[Array, " width"]:
        """The un-normalised feature of one image, a float array (3, height, width).

        Computes in the dtype of the weights. `patch_dropout` leaves out this share of the patches,
        chosen by `key`: for training (Li et al. 2022, arXiv:2212.00794; timm's `PatchDropout`).

        Raises `ValueError` for a batch, for channels last, for another size, for pixels that are
        not normalised yet, and for a share that is not in [0, 1) or comes without a key.
        """
        check_patch_dropout(patch_dropout, key)
        return self._project(self._check(image), patch_dropout, key)

    @automatic
    def features(self, image: Input) -> Float[Array, "tokens width"]:
        """The patches before pooling, after the final LayerNorm: timm's `forward_features`."""
        return jax.vmap(self.ln_post)(self.stack(self._embed(self._check(image))))

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
    ) -> Float[Array, " width"]:
        x = self.stack(self._embed(image, patch_dropout, key))
        return self.map_head(jax.vmap(self.ln_post)(x))

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
        x = patches + self.positional_embedding
        if key is not None and patch_dropout:
            x = x[kept_patches(len(x), patch_dropout, key)]
        return x


def _make_block(config: TimmViTConfig, key: PRNGKeyArray) -> Block:
    attn_key, mlp_key = jr.split(key)
    width, hidden, eps = config.width, config.mlp_width, config.norm_eps
    return Block(
        ln_1=layer_norm(width, eps),
        attn=Attention(width, config.num_heads, qkv_init=INIT, out_init=INIT, key=attn_key),
        ln_2=layer_norm(width, eps),
        mlp=MLP(
            width,
            hidden,
            width,
            activation=config.activation,
            up_init=INIT,
            down_init=INIT,
            bias_init=zeros,
            key=mlp_key,
        ),
    )
