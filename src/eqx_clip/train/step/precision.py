"""Dynamic loss scaling, which keeps small gradients of float16 from becoming zero."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int32, PyTree


GROWTH_INTERVAL = 2000  # steps without overflow after which the scale doubles, as in PyTorch
INITIAL_SCALE = 2.0**15

T = TypeVar("T")


class LossScale(eqx.Module):
    """What a float16 loss is multiplied by, and for how many steps that went well.

    Doubled after 2,000 steps whose gradients were finite, halved after one whose were not, which
    is left out. Source: Micikevicius et al. 2018 (arXiv:1710.03740); PyTorch's `GradScaler`.
    """

    scale: Float[Array, ""]
    good_steps: Int32[Array, ""]

    def __init__(self):
        self.scale = jnp.asarray(INITIAL_SCALE, jnp.float32)
        self.good_steps = jnp.asarray(0, jnp.int32)

    def after(self, finite: Bool[Array, ""]) -> "LossScale":
        """The scale after a step whose gradients were, or were not, finite."""
        grows = finite & (self.good_steps + 1 >= GROWTH_INTERVAL)
        grown = jnp.where(grows, self.scale * 2, self.scale)
        scale = jnp.where(finite, grown, jnp.maximum(self.scale / 2, 1.0))
        good_steps = jnp.where(finite & ~grows, self.good_steps + 1, 0)
        return eqx.tree_at(
            lambda module: (module.scale, module.good_steps), self, (scale, good_steps)
        )


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of every array is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def choose(condition: Bool[Array, ""], new: T, old: T) -> T:
    """`new` if the condition holds, else `old`, array by array."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
