"""The layers of a tower, in groups from input to output: what is locked, and how fast each learns.

The groups are those of OpenCLIP's `lock_image_tower` and `lock_text_tower`: the embeddings, each
block but the last, the last block with the LayerNorm that follows, the projection. Blocks of a
stack share their leaves, so that what is said of a group is an array along the depth axis.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..._clip import CLIP
from ..._types import Count, Number
from ...towers.convnext import ConvNeXt
from ...towers.text import TextTransformer
from ...towers.vit import VisionTransformer


_TOWERS = ("image", "text")


def trainable(
    model: CLIP, *, image_groups: Count | None = None, text_groups: Count | None = None
) -> PyTree[np.ndarray]:
    """Which parameters learn, for `make_train_step`: booleans that broadcast against each leaf.

    - `image_groups`, `text_groups`: None lets a whole tower learn, 0 locks it, n locks all but its
      last n groups: OpenCLIP's `--lock-image-unlocked-groups` and `--lock-text-unlocked-layers`.
      A locked image tower is LiT (Zhai et al. 2022, arXiv:2111.07991). ConvNeXt's projection always
      learns, as in OpenCLIP.

    Raises `ValueError` for a negative number, and for groups of a tower that is not the library's.
    """

    def learns(tower: Any, wanted: Count | None) -> PyTree[np.ndarray]:
        if wanted is None or (wanted == 0 and not _has_groups(tower)):
            return jax.tree.map(lambda _: np.asarray(wanted is None), tower)
        if wanted < 0:
            raise ValueError(f"Expected a number of groups of at least 0; got {wanted}.")
        groups, count = _groups(tower)
        locked = jax.tree.map(lambda group: np.asarray(group >= count - wanted), groups)
        if isinstance(tower, ConvNeXt):  # whose head OpenCLIP keeps outside of what it locks
            head = jax.tree.map(lambda _: np.asarray(True), tower.head)
            locked = _replaced(locked, "head", head)
        return locked

    wanted = {"image": image_groups, "text": text_groups}
    return _by_tower(
        model, lambda name, tower: learns(tower, wanted[name]), lambda _: np.asarray(True)
    )


def layer_rates(model: CLIP, decay: Number) -> PyTree[np.ndarray]:
    """What each leaf's learning rate is multiplied by: `decay` for each group above it.

    The projections and the temperature learn at the full rate (1). Source: BEiT (Bao et al. 2022,
    arXiv:2106.08254). Raises `ValueError` for a tower that is not the library's.
    """

    def rates(_: str, tower: Any) -> PyTree[np.ndarray]:
        groups, count = _groups(tower)
        return jax.tree.map(lambda group: np.asarray(float(decay) ** (count - 1 - group)), groups)

    return _by_tower(model, rates, lambda _: np.asarray(1.0))


def _by_tower(model: CLIP, of_tower: Any, of_scalar: Any) -> PyTree[np.ndarray]:
    result = jax.tree.map(of_scalar, model)
    for name in _TOWERS:
        result = _replaced(result, name, of_tower(name, getattr(model, name)))
    return result


def _replaced(module: Any, name: str, value: Any) -> Any:
    return eqx.tree_at(lambda module: getattr(module, name), module, value)


def _has_groups(tower: Any) -> bool:
    return isinstance(tower, VisionTransformer | TextTransformer | ConvNeXt)


def _groups(tower: Any) -> tuple[PyTree[np.ndarray], int]:
    """The number of each leaf's group, an array along its depth axis in a stack, and the count."""
    if isinstance(tower, ConvNeXt):
        return _convnext_groups(tower)
    if not _has_groups(tower):
        raise ValueError(
            f"The groups of layers of a {type(tower).__name__} are not known: only the library's "
            "towers can be locked in part, or have rates by layer."
        )
    depth = len(tower.stack)
    later = {"ln_post": depth, "ln_final": depth, "proj": depth + 1}

    def group(path: tuple, leaf: Any) -> np.ndarray:
        field = path[0].name
        if field == "stack":
            return _along_depth(1, leaf)
        return np.asarray(later.get(field, 0))

    return jax.tree_util.tree_map_with_path(group, tower), depth + 2


def _convnext_groups(tower: ConvNeXt) -> tuple[PyTree[np.ndarray], int]:
    # timm's: the stem, each block (the first of a stage with its downsampling), the head.
    starts = (1 + np.cumsum([0, *(len(stage.stack) for stage in tower.stages)])).tolist()

    def group(path: tuple, leaf: Any) -> np.ndarray:
        field = path[0].name
        if field != "stages":
            return np.asarray(0 if field in ("stem", "stem_norm") else starts[-1])
        start = int(starts[path[1].idx])
        return np.asarray(start) if path[2].name == "downsample" else _along_depth(start, leaf)

    return jax.tree_util.tree_map_with_path(group, tower), starts[-1] + 1


def _along_depth(start: int, leaf: Any) -> np.ndarray:
    depth = leaf.shape[0]
    return np.arange(start, start + depth).reshape(depth, *(1,) * (leaf.ndim - 1))
