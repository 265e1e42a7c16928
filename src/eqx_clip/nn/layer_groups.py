"""The layers of a tower in groups, from input to output."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True)
class LayerGroups:
    """Of each leaf of a tower the number of its group, along the depth axis of a stack.

    `numbers` is the tower with these in place of its arrays, `count` how many groups there are, and
    `unlocked` are the fields of the tower that OpenCLIP keeps out of what it locks.
    """

    numbers: PyTree[np.ndarray]
    count: int
    unlocked: tuple[str, ...] = ()


def along_depth(start: int, leaf: Any) -> np.ndarray:
    """Groups of a stack's layers, the first of them `start`, for a stacked leaf."""
    depth = leaf.shape[0]
    return np.arange(start, start + depth).reshape(depth, *(1,) * (leaf.ndim - 1))


def transformer_groups(tower: Any, norm: str, head: tuple[str, ...]) -> LayerGroups:
    """The embeddings, each block but the last, the last with the norm that follows, the head.

    `norm` and `head` are fields of the tower; the others but its `stack` come before the blocks.
    OpenCLIP's `lock_image_tower` and `lock_text_tower` of its own transformers, and of timm's.
    """
    depth = len(tower.stack)
    later = {norm: depth, **dict.fromkeys(head, depth + 1)}

    def group(path: tuple, leaf: Any) -> np.ndarray:
        field = path[0].name
        return along_depth(1, leaf) if field == "stack" else np.asarray(later.get(field, 0))

    return LayerGroups(jax.tree_util.tree_map_with_path(group, tower), depth + 2)
