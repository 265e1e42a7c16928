"""How many floating-point operations a forward pass takes, from shapes alone."""

from typing import Any

import jax

from ..._clip import CLIP
from ...towers.convnext import ConvNeXt
from ...towers.text import TextTransformer
from ...towers.vit import VisionTransformer


def forward_flops(model: CLIP) -> int:
    """Of one image and one text: a multiplication and an addition for each product, 2 in all.

    Of matrix products and convolutions only, all blocks whole and texts uncut, as OpenCLIP computes
    them. XLA's own count takes the body of a loop once, however often it runs. A training step
    takes three times as many. `model` may hold `jax.ShapeDtypeStruct`s. Raises `ValueError` for a
    tower that is not the library's.
    """
    return sum(tower_flops(tower, positions(tower, model)) for tower in (model.image, model.text))


def tower_flops(tower: Any, positions: int) -> int:
    """Of so many tokens, or pixels of ConvNeXt's first stage."""
    if isinstance(tower, ConvNeXt):
        total = 2 * positions * tower.stem.weight.size
        for i, stage in enumerate(tower.stages):
            total += 2 * (positions >> 2 * i) * _size(stage)
        return total + 2 * _size(tower.head)
    if not isinstance(tower, VisionTransformer | TextTransformer):
        raise ValueError(f"The operations of a {type(tower).__name__} are not known.")
    total = 2 * positions * _size(tower.stack) + 2 * tower.proj.size
    total += 4 * tower.config.depth * tower.config.width * positions**2
    if isinstance(tower, VisionTransformer):
        total += 2 * (positions - 1) * tower.patch.weight.size
    return total


def positions(tower: Any, model: CLIP) -> int:
    """How many `tower_flops` counts for a whole image or text of `model`."""
    if isinstance(tower, ConvNeXt):
        return model.preprocess.height * model.preprocess.width // 16
    return len(getattr(tower, "positional_embedding", ()))


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
