"""Counts of floating-point operations, from shapes alone: two for a product, and its addition."""

from typing import Any

import jax


def parameters(tree: Any) -> int:
    """How many numbers the arrays of `tree` hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def transformer_flops(tower: Any, tokens: int) -> int:
    """Of the blocks of so many tokens, and attention between all of them."""
    linear = 2 * tokens * parameters(tower.stack)
    return linear + 4 * tower.config.depth * tower.config.width * tokens**2
