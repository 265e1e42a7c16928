"""A map pooled by attention."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._types import at_least_float32
from .initializers import normal
from .linear import linear, over_last
from .mesh_axes import automatic


class AttentionPool2d(eqx.Module):
    """What the mean of all positions sees of them: `open_clip.modified_resnet.AttentionPool2d`."""

    positional_embedding: Float[Array, "tokens width"]
    q_proj: eqx.nn.Linear
    k_proj: eqx.nn.Linear
    v_proj: eqx.nn.Linear
    c_proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)

    def __init__(
        self, positions: int, width: int, num_heads: int, embed_dim: int, *, key: PRNGKeyArray
    ):
        position_key, *keys = jr.split(key, 5)
        init = normal(width**-0.5)
        self.positional_embedding = init(position_key, (1 + positions, width))
        outs = (width, width, width, embed_dim)
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (
            linear(width, out, weight_init=init, key=key)
            for out, key in zip(outs, keys, strict=True)
        )
        self.num_heads = num_heads

    def flops(self) -> int:
        """The operations of one map, from shapes alone, all positions as queries."""
        tokens, width = self.positional_embedding.shape
        layers = (self.q_proj, self.k_proj, self.v_proj, self.c_proj)
        products = tokens * sum(layer.weight.size for layer in layers)
        return 2 * products + 4 * width * tokens**2

    @automatic
    def __call__(self, x: Float[Array, "rows columns width"]) -> Float[Array, " embed"]:
        pixels = x.reshape(-1, x.shape[-1])
        mean = jnp.mean(pixels, axis=0, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        tokens = jnp.concatenate([mean[None], pixels]) + self.positional_embedding
        return self.c_proj(self._attend(tokens).astype(tokens.dtype))

    def _attend(self, tokens: Float[Array, "tokens width"]) -> Float[Array, " width"]:
        """The first token's attention to all, before the last projection, in at least float32."""
        dtype = at_least_float32(tokens.dtype)
        heads = (self.num_heads, -1)
        q = self.q_proj(tokens[0]).astype(dtype).reshape(heads)
        q = q / math.sqrt(q.shape[1])
        if not (type(self.k_proj) is type(self.v_proj) is eqx.nn.Linear):
            # A user has put others in their place.
            k, v = (
                over_last(layer, tokens).astype(dtype).reshape(len(tokens), *heads)
                for layer in (self.k_proj, self.v_proj)
            )
            weights = jax.nn.softmax(jnp.einsum("hd,thd->ht", q, k))
            return jnp.einsum("ht,thd->hd", weights, v).reshape(-1)
        # Of one query, products are fewer if it goes through the keys' projection backwards, and
        # the mean of tokens, not each token, through that of the values. The keys' bias adds the
        # same to each score of a head, which the softmax takes out.
        width, tokens = tokens.shape[1], tokens.astype(dtype)
        k_weight, v_weight = (
            layer.weight.astype(dtype).reshape(*q.shape, width)
            for layer in (self.k_proj, self.v_proj)
        )
        scores = jnp.einsum("hd,hdw->hw", q, k_weight) @ tokens.T
        mixed = jax.nn.softmax(scores) @ tokens
        y = jnp.einsum("hw,hdw->hd", mixed, v_weight).reshape(-1)
        return y if self.v_proj.bias is None else y + self.v_proj.bias.astype(dtype)
