"""Which parameters learn, against OpenCLIP's `lock_image_tower` and `lock_text_tower`."""

import copy
import warnings
from importlib.util import find_spec

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import TINY_CONVNEXT, TINY_VIT
from oracle import open_clip, timm, torch

from eqx_clip import train
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.format import OPEN_CLIP
from eqx_clip.checkpoints.rows.state_dict import entries


def our_flags(config, **groups):
    """OpenCLIP's name of every tensor, and whether it learns."""
    skeleton = eqx.filter_eval_shape(config_from_open_clip(config).build, key=jax.random.key(0))
    flags = {}
    masks = jax.tree.leaves(train.trainable(skeleton, **groups))
    for row, mask in zip(entries(skeleton, OPEN_CLIP.table(skeleton)), masks, strict=True):
        by_layer = np.broadcast_to(mask, row.leaf.shape)
        layers = by_layer if row.row.stacked else [by_layer]
        for name, layer in zip(row.tensors, layers, strict=True):
            assert layer.all() or not layer.any()
            flags[name] = bool(layer.all())
    return flags


def openclip_flags(config, image_groups, text_groups):
    config = copy.deepcopy(config)
    with torch.device("meta"):
        oracle = open_clip.CLIP(**config)
    if image_groups is not None:
        with warnings.catch_warnings():  # timm's, of its own old name of a module
            warnings.simplefilter("ignore")
            oracle.lock_image_tower(image_groups)
    if text_groups is not None:
        oracle.lock_text_tower(text_groups)
    return {name: parameter.requires_grad for name, parameter in oracle.named_parameters()}


# The image tower has 5 groups, the text tower 4; one more than there are unlocks all.
@pytest.mark.parametrize(
    ("image_groups", "text_groups"),
    [*((n, None) for n in range(7)), *((None, n) for n in range(6)), (0, 0), (2, 1)],
)
def test_locked_groups_of_transformers_are_openclips(image_groups, text_groups):
    ours = our_flags(TINY_VIT, image_groups=image_groups, text_groups=text_groups)
    assert ours == openclip_flags(TINY_VIT, image_groups, text_groups)


@pytest.mark.skipif(
    find_spec("timm.models.helpers") is None, reason=f"OpenCLIP cannot lock timm {timm.__version__}"
)
@pytest.mark.parametrize("image_groups", [0, 1, 2, 3, 12, 40])
def test_locked_groups_of_convnext_are_openclips(image_groups):
    ours = our_flags(TINY_CONVNEXT, image_groups=image_groups)
    assert ours == openclip_flags(TINY_CONVNEXT, image_groups, None)
