"""A transformer's block."""

import equinox as eqx
import jax
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._types import Activation
from .attention import Attention
from .linear import layer_norm
from .mesh_axes import automatic
from .mlp import MLP
from .module import Module
from .stack import Index, Policy


class Block(Module):
    """A pre-norm transformer block: OpenCLIP's `ResidualAttentionBlock`."""

    ln_1: eqx.nn.LayerNorm
    attn: Attention
    ln_2: eqx.nn.LayerNorm
    mlp: MLP

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        *,
        activation: Activation,
        causal: bool,
        key: PRNGKeyArray,
    ):
        attn_key, mlp_key = jr.split(key)
        self.ln_1 = layer_norm(width)
        self.attn = Attention(width, num_heads, causal=causal, key=attn_key)
        self.ln_2 = layer_norm(width)
        self.mlp = MLP(width, mlp_width, width, activation=activation, key=mlp_key)

    @property
    def policy(self) -> Policy:
        """What a stack keeps of each block for the gradient: the outputs of its linear layers.

        The rest, elementwise but for a hundredth of the work, is computed again, which takes less
        time than to write it to memory and read it back.
        """
        return jax.checkpoint_policies.dots_with_no_batch_dims_saveable

    @property
    def is_standard(self) -> bool:
        """Whether it is still known which tokens meet where: not if you put another attention or
        MLP in place of these, or made a subclass."""
        parts = (type(self), type(self.attn), type(self.mlp))
        return parts == (Block, Attention, MLP)

    @automatic
    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        x = x + self.attn(jax.vmap(self.ln_1)(x))
        return x + self.mlp(jax.vmap(self.ln_2)(x))

    def at(self, x: Float[Array, "tokens width"], i: Index) -> Float[Array, " width"]:
        """`self(x)[i]`, in a standard block without computing what other tokens alone need."""
        if not self.is_standard:
            return self(x)[i]
        y = x[i] + self.attn.at(jax.vmap(self.ln_1)(x), i)
        return y + self.mlp(self.ln_2(y))
