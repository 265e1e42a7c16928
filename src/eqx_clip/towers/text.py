"""OpenCLIP's text transformer."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Integer, PRNGKeyArray

from .._checks import (
    as_count,
    as_mlp_ratio,
    as_natural,
    as_positive,
    canonicalize,
    check_choice,
    check_heads,
    check_ids,
    check_token_count,
    check_tokens,
)
from .._types import Activation, Count, Input, Real, TextPooling, TextProjection
from ..nn.activations import ACTIVATIONS
from ..nn.attention import Attention
from ..nn.block import Block
from ..nn.flops import parameters, transformer_flops
from ..nn.initializers import normal, zeros
from ..nn.layer_groups import LayerGroups, transformer_groups
from ..nn.linear import layer_norm
from ..nn.mesh_axes import automatic
from ..nn.mlp import MLP
from ..nn.module import Module
from ..nn.pooling import TEXT_POOLINGS as POOLINGS
from ..nn.pooling import TokenPooling
from ..nn.stack import Stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes and parts of a `TextTransformer`.

    - `causal`: whether a token attends to itself and those before it only.
    - `pooling`: where the feature is read, at the "highest_id", CLIP's end-of-text token, at the
      "last" token, as in CLIPA and SigLIP, or at the "first_id" that is `eos_id`, as in MetaCLIP 2.
    - `projection`: what the feature is projected by, a "matrix", a "linear" layer, which has a
      bias, as in SigLIP, or "none", where it is as wide as the tower.
    """

    context_length: Count = 77
    vocab_size: Count = 49408
    width: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Real = 4.0
    embed_dim: Count
    activation: Activation = "gelu"
    causal: bool = True
    pooling: TextPooling = "highest_id"
    eos_id: Count | None = None
    projection: TextProjection = "matrix"
    norm_eps: Real = 1e-5

    def __post_init__(self):
        names = ("context_length", "vocab_size", "width", "depth", "num_heads", "embed_dim")
        canonicalize(self, as_count, *names)
        canonicalize(self, as_positive, "mlp_ratio", "norm_eps")
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("pooling", self.pooling, tuple(POOLINGS))
        check_choice("projection", self.projection, ("matrix", "linear", "none"))
        if self.eos_id is not None:
            canonicalize(self, as_natural, "eos_id")
        if (self.eos_id is None) is (self.pooling == "first_id"):
            raise ValueError(
                "`eos_id` goes with `pooling='first_id'`, and only with it; got "
                f"`eos_id={self.eos_id}` and `pooling={self.pooling!r}`."
            )
        if self.projection == "none" and self.embed_dim != self.width:
            raise ValueError(
                f"Without a projection `embed_dim={self.embed_dim}` must be `width={self.width}`."
            )
        check_heads(self.width, self.num_heads)
        object.__setattr__(self, "mlp_ratio", as_mlp_ratio(self.width, self.mlp_ratio))
        check_token_count("context_length", self.context_length)

    @property
    def mlp_width(self) -> int:
        """Numbers in the hidden layer of each block's MLP."""
        return int(self.width * self.mlp_ratio)

    def with_quick_gelu(self) -> "TextConfig":
        return dataclasses.replace(self, activation="quick_gelu")

    def build(self, *, key: PRNGKeyArray) -> "TextTransformer":
        return TextTransformer(self, key=key)


class TextTransformer(Module):
    """Maps one row of token ids to one vector: `open_clip.transformer.TextTransformer`.

    In CLIP attention is causal, and the feature is read at the highest id, the end-of-text token.
    In SigLIP each token sees all, padding included, and the feature is read at the last.
    """

    token_embedding: Float[Array, "vocab width"]
    positional_embedding: Float[Array, "context width"]
    stack: Stack[Block]
    pool: TokenPooling
    ln_final: eqx.nn.LayerNorm
    proj: Float[Array, "width embed"] | None
    proj_bias: Float[Array, " embed"] | None
    config: TextConfig = eqx.field(static=True)

    def __init__(self, config: TextConfig, *, key: PRNGKeyArray):
        """Initialised as OpenCLIP does (`TextTransformer.init_parameters`)."""
        token_key, position_key, stack_key, proj_key = jr.split(key, 4)
        width = config.width
        self.token_embedding = normal(0.02)(token_key, (config.vocab_size, width))
        self.positional_embedding = normal(0.01)(position_key, (config.context_length, width))
        self.stack = Stack(lambda key: _make_block(config, key), config.depth, key=stack_key)
        self.pool = POOLINGS[config.pooling](config.eos_id)
        self.ln_final = layer_norm(width, config.norm_eps)
        self.proj, self.proj_bias = _make_projection(config, proj_key)
        self.config = config

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    def layer_groups(self) -> LayerGroups:
        """The groups of OpenCLIP's `lock_text_tower`."""
        return transformer_groups(self, "ln_final", ("proj", "proj_bias"))

    def flops(self, tokens: int | None = None) -> int:
        """The operations of one text, from shapes alone; of so many tokens, or the context's."""
        tokens = self.config.context_length if tokens is None else tokens
        return transformer_flops(self, tokens) + 2 * parameters(self.proj)

    @automatic
    def __call__(self, tokens: Input) -> Float[Array, " embed"]:
        """The un-normalised projection of one row of token ids, an integer array (context,).

        A row may be shorter than the model's context. Raises `ValueError` for a batch, for
        floats, for a longer row, and for ids outside the vocabulary where `tokens` is a NumPy
        array; inside `jax.jit` such ids give NaN.
        """
        return self._project(self._check(tokens))

    def used_lengths(self, tokens: Int[np.ndarray, "*batch tokens"]) -> Int[np.ndarray, "*batch"]:
        """How many tokens of each row its feature depends on: those up to the end of text.

        Attention is causal and the feature is read there, so rows cut to this length, or to any
        greater one, give the same feature. All count where that is not known: with an attention, an
        MLP or a block of yours, and in a subclass, which may read the feature elsewhere. Raises
        `ValueError` for ids outside the vocabulary.
        """
        check_ids(tokens, self.config.vocab_size)
        block: Any = getattr(self.stack, "block", None)
        known = isinstance(block, Block) and block.is_standard
        causal = known and getattr(block.attn, "causal", False)
        pool: Any = self.pool
        if type(self) is TextTransformer and causal and hasattr(pool, "used_lengths"):
            return pool.used_lengths(tokens)
        return np.full(tokens.shape[:-1], tokens.shape[-1])

    @automatic
    def features(self, tokens: Input) -> Float[Array, "tokens width"]:
        """The tokens before pooling, after the final LayerNorm: OpenCLIP's `output_tokens`."""
        return jax.vmap(self.ln_final)(self.stack(self._embed(self._check(tokens))))

    @automatic
    def intermediates(self, tokens: Input) -> Float[Array, "depth tokens width"]:
        """Each block's output, before the final LayerNorm: OpenCLIP's `forward_intermediates`."""
        return self.stack.intermediates(self._embed(self._check(tokens)))

    @eqx.filter_jit
    def _project(self, tokens: Integer[Array, " tokens"]) -> Float[Array, " embed"]:
        y = self.ln_final(self.pool(self.stack, self._embed(tokens), tokens))
        y = y if self.proj is None else y @ self.proj
        return y if self.proj_bias is None else y + self.proj_bias

    def _check(self, tokens: Input) -> Integer[Array, " tokens"]:
        return check_tokens(tokens, self.config.context_length, self.config.vocab_size)

    def _embed(self, tokens: Integer[Array, " tokens"]) -> Float[Array, "tokens width"]:
        embedded = self.token_embedding.at[tokens].get(mode="fill", wrap_negative_indices=False)
        return embedded + self.positional_embedding[: tokens.shape[0]]


def _make_projection(config: TextConfig, key: PRNGKeyArray) -> tuple[Array | None, Array | None]:
    """The matrix and the bias, as far as there are any."""
    if config.projection == "none":
        return None, None
    matrix = normal(config.width**-0.5)(key, (config.width, config.embed_dim))
    bias = zeros(key, (config.embed_dim,)) if config.projection == "linear" else None
    return matrix, bias


def _make_block(config: TextConfig, key: PRNGKeyArray) -> Block:
    attn_key, mlp_key = jr.split(key)
    width = config.width
    residual = normal(width**-0.5 * (2 * config.depth) ** -0.5)
    return Block(
        ln_1=layer_norm(width, config.norm_eps),
        attn=Attention(
            width,
            config.num_heads,
            causal=config.causal,
            qkv_init=normal(width**-0.5),
            out_init=residual,
            key=attn_key,
        ),
        ln_2=layer_norm(width, config.norm_eps),
        mlp=MLP(
            width,
            config.mlp_width,
            width,
            activation=config.activation,
            up_init=normal((2 * width) ** -0.5),
            down_init=residual,
            key=mlp_key,
        ),
    )
