"""AdamW as OpenCLIP sets it."""

from typing import Any

import jax
import optax
from jaxtyping import PyTree

from ..._checks import as_positive
from ..._types import Number
from ...nn.stack import Stack
from .groups import layer_rates


def adamw(
    learning_rate: Number | optax.Schedule,
    *,
    b1: Number = 0.9,
    b2: Number = 0.98,
    eps: Number = 1e-6,
    weight_decay: Number = 0.2,
    layer_decay: Number | None = None,
) -> optax.GradientTransformation:
    """AdamW with OpenCLIP's defaults for its vision transformers; nothing of one axis decays.

    For ConvNeXt OpenCLIP takes `b2=0.999, eps=1e-8`. `weight_decay_mask` tells what decays. To
    clip gradients first: `optax.chain(optax.clip_by_global_norm(1.0), adamw(...))`. With
    `layer_decay`, such as 0.75, lower layers of the library's towers learn more slowly, as
    `layer_rates` tells; `ValueError` if it is not above 0. Source: `open_clip_train.main` and
    `params.get_default_params`.
    """
    optimizer = optax.adamw(
        learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=weight_decay_mask
    )
    if layer_decay is None:
        return optimizer
    layer_decay = as_positive("layer_decay", layer_decay)

    def slowed(updates: PyTree, params: PyTree) -> PyTree:
        rates = layer_rates(params, layer_decay)
        return jax.tree.map(
            lambda update, rate: (update * rate).astype(update.dtype), updates, rates
        )

    return optax.chain(optimizer, optax.stateless(slowed))


def weight_decay_mask(model: PyTree) -> PyTree[bool]:
    """Which leaves decay: those of two axes or more that are no bias and no logit scale.

    OpenCLIP's rule, by name and axes, where the depth of a `Stack` is no axis: the biases and
    gains of stacked blocks, (depth, width), do not decay. Holds for any module, yours included.
    """
    return jax.tree_util.tree_map_with_path(
        _mask_node, model, is_leaf=lambda node: isinstance(node, Stack)
    )


def _mask_node(path: tuple, node: Any) -> PyTree[bool]:
    if not isinstance(node, Stack):
        return _decays(path, node.ndim)
    return jax.tree_util.tree_map_with_path(
        lambda inner, leaf: _decays((*path, *inner), leaf.ndim - 1), node
    )


def _decays(path: tuple, ndim: int) -> bool:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return ndim >= 2 and "bias" not in name and "logit_scale" not in name
