"""Tokens pooled by attention from a learned query."""

import equinox as eqx
import jax
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._types import Activation
from .attention import attend_plainly
from .flops import parameters
from .initializers import Initializer, truncated_normal, zeros
from .linear import layer_norm, linear, over_last
from .mesh_axes import automatic
from .mlp import MLP


class MAPHead(eqx.Module):
    """Multi-head attention pooling: what a learned query sees of all tokens, and an MLP.

    `y + mlp(norm(y))`, where `y = proj(attention(q(latent), kv(x)))`. Zhai et al. 2022
    (arXiv:2106.04560); timm's `AttentionPoolLatent`. Linear layers are initialised by `init` and
    with biases of zeros.
    """

    latent: Float[Array, "1 width"]
    q: eqx.nn.Linear
    kv: eqx.nn.Linear
    proj: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    mlp: MLP
    num_heads: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        *,
        activation: Activation,
        norm_eps: float,
        init: Initializer,
        key: PRNGKeyArray,
    ):
        latent_key, q_key, kv_key, proj_key, mlp_key = jr.split(key, 5)
        self.latent = truncated_normal(width**-0.5)(latent_key, (1, width))
        self.q, self.kv, self.proj = (
            linear(width, out, weight_init=init, bias_init=zeros, key=key)
            for out, key in ((width, q_key), (2 * width, kv_key), (width, proj_key))
        )
        self.norm = layer_norm(width, norm_eps)
        self.mlp = MLP(
            width,
            hidden,
            width,
            activation=activation,
            up_init=init,
            down_init=init,
            bias_init=zeros,
            key=mlp_key,
        )
        self.num_heads = num_heads

    def flops(self, tokens: int) -> int:
        """The operations of so many tokens, from shapes alone; the query is none of an image's."""
        of_tokens = tokens * parameters(self.kv) + parameters((self.proj, self.mlp))
        return 2 * of_tokens + 4 * tokens * self.latent.size

    @automatic
    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
        q = over_last(self.q, self.latent).reshape(1, self.num_heads, -1)
        k, v = jax.lax.split(over_last(self.kv, x), [x.shape[-1]] * 2, axis=1)
        k, v = (part.reshape(len(x), self.num_heads, -1) for part in (k, v))
        y = self.proj(attend_plainly(q, k, v, None).reshape(-1))
        return y + self.mlp(self.norm(y))
