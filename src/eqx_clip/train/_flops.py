"""How many floating-point operations a forward pass takes, from shapes alone."""

from typing import Any

import jax

from .._clip import CLIP
from .._convnext import ConvNeXt
from .._text import TextTransformer
from .._vision import VisionTransformer


def forward_flops(model: CLIP) -> int:
    """Of one image and one text: a multiplication and an addition for each product, 2 in all.

    Of matrix products and convolutions only, all blocks whole and texts uncut, as OpenCLIP computes
    them. XLA's own count takes the body of a loop once, however often it runs. A training step
    takes three times as many. `model` may hold `jax.ShapeDtypeStruct`s. Raises `ValueError` for a
    tower that is not the library's.
    """
    return _tower_flops(model.image, model) + _tower_flops(model.text, model)


def _tower_flops(tower: Any, model: CLIP) -> int:
    pixels = model.preprocess.height * model.preprocess.width
    if isinstance(tower, ConvNeXt):
        total = 2 * (pixels // 16) * tower.stem.weight.size
        for i, stage in enumerate(tower.stages):
            total += 2 * (pixels // 16 >> 2 * i) * _size(stage)
        return total + 2 * _size(tower.head)
    if not isinstance(tower, VisionTransformer | TextTransformer):
        raise ValueError(f"The operations of a {type(tower).__name__} are not known.")
    tokens, width = tower.positional_embedding.shape
    depth = tower.config.depth
    total = 2 * tokens * _size(tower.stack) + 4 * depth * width * tokens**2 + 2 * tower.proj.size
    if isinstance(tower, VisionTransformer):
        total += 2 * (tokens - 1) * tower.patch.weight.size
    return total


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
