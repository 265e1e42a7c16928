"""A transformer's block."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import Float

from .attention import Attention
from .mesh_axes import automatic
from .mlp import MLP
from .module import Module
from .stack import Index, Policy


Part = Callable[[Array], Array]


class Block(Module):
    """A pre-norm transformer block of these parts: OpenCLIP's `ResidualAttentionBlock`.

    Norms map one token to one, attention and MLP a row of tokens to another.
    """

    ln_1: Part
    attn: Part
    ln_2: Part
    mlp: Part

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
        attn: Any = self.attn
        y = x[i] + attn.at(jax.vmap(self.ln_1)(x), i)
        return y + self.mlp(self.ln_2(y))
