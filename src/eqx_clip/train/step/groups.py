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
from ...nn.layer_groups import LayerGroups


_TOWERS = ("image", "text")


def trainable(
    model: CLIP, *, image_groups: Count | None = None, text_groups: Count | None = None
) -> PyTree[np.ndarray]:
    """Which parameters learn, for `make_train_step`: booleans that broadcast against each leaf.

    - `image_groups`, `text_groups`: None lets a whole tower learn, 0 locks it, n locks all but its
      last n groups: OpenCLIP's `--lock-image-unlocked-groups` and `--lock-text-unlocked-layers`.
      A locked image tower is LiT (Zhai et al. 2022, arXiv:2111.07991). ConvNeXt's projection always
      learns, as in OpenCLIP.

    Raises `ValueError` for a negative number, and for groups of a tower without a method
    `layer_groups`.
    """

    def learns(tower: Any, wanted: Count | None) -> PyTree[np.ndarray]:
        if wanted is None or (wanted == 0 and not hasattr(tower, "layer_groups")):
            return jax.tree.map(lambda _: np.asarray(wanted is None), tower)
        if wanted < 0:
            raise ValueError(f"Expected a number of groups of at least 0; got {wanted}.")
        groups = _groups(tower)
        locked = jax.tree.map(
            lambda group: np.asarray(group >= groups.count - wanted), groups.numbers
        )
        for field in groups.unlocked:
            learning = jax.tree.map(lambda _: np.asarray(True), getattr(tower, field))
            locked = _replaced(locked, field, learning)
        return locked

    wanted = {"image": image_groups, "text": text_groups}
    return _by_tower(
        model, lambda name, tower: learns(tower, wanted[name]), lambda _: np.asarray(True)
    )


def layer_rates(model: CLIP, decay: Number) -> PyTree[np.ndarray]:
    """What each leaf's learning rate is multiplied by: `decay` for each group above it.

    The projections and the temperature learn at the full rate (1). Source: BEiT (Bao et al. 2022,
    arXiv:2106.08254). Raises `ValueError` for a tower without a method `layer_groups`.
    """

    def rates(_: str, tower: Any) -> PyTree[np.ndarray]:
        groups = _groups(tower)
        last = groups.count - 1
        return jax.tree.map(lambda n: np.asarray(float(decay) ** (last - n)), groups.numbers)

    return _by_tower(model, rates, lambda _: np.asarray(1.0))


def _by_tower(model: CLIP, of_tower: Any, of_scalar: Any) -> PyTree[np.ndarray]:
    result = jax.tree.map(of_scalar, model)
    for name in _TOWERS:
        result = _replaced(result, name, of_tower(name, getattr(model, name)))
    return result


def _replaced(module: Any, name: str, value: Any) -> Any:
    return eqx.tree_at(lambda module: getattr(module, name), module, value)


def _groups(tower: Any) -> LayerGroups:
    if not hasattr(tower, "layer_groups"):
        raise ValueError(
            f"The groups of layers of a {type(tower).__name__} are not known: only the library's "
            "towers, and those with a method `layer_groups`, can be locked in part, or have rates "
            "by layer."
        )
    return tower.layer_groups()
