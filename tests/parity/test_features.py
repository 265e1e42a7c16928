"""Features before pooling, and each block's output, against OpenCLIP's and timm's own."""

import copy
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import TINY_CLIPA, TINY_CONVNEXT, TINY_VIT, images_for, relative_error
from models import TEXTS, oracle_model, state_dict
from oracle import torch

import eqx_clip


@pytest.fixture(autouse=True)
def _x64(x64):
    """Everything here is compared in float64, to 1e-10."""


def both(config, activation="gelu") -> tuple[Any, Any]:
    config = {**config, "quick_gelu": activation == "quick_gelu"}
    theirs = oracle_model(config, dtype=torch.float64)
    return eqx_clip.from_state_dict(config, state_dict(theirs)), theirs


def inputs(ours):
    images = images_for(ours, 2).astype(np.float64)
    return images, torch.tensor(images), ours.tokenize(TEXTS)


@eqx.filter_jit
def mapped(function, batch):
    return jax.vmap(function)(batch)


def check(ours, theirs):
    assert ours.dtype == np.float64
    assert relative_error(ours, theirs.detach().numpy()) < 1e-10


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_vision_transformer(activation):
    ours, theirs = both(TINY_VIT, activation)
    images, torch_images, _ = inputs(ours)
    depth, (rows, columns), width = 3, ours.image.config.grid, 40
    assert (rows, columns) == (6, 4)

    output = theirs.visual.forward_intermediates(torch_images, output_extra_tokens=True)
    blocks = mapped(ours.image.intermediates, images)
    assert blocks.shape == (2, depth, 1 + rows * columns, width)
    for i in range(depth):
        patches = blocks[:, i, 1:].reshape(2, rows, columns, width).transpose(0, 3, 1, 2)
        check(patches, output["image_intermediates"][i])
        check(blocks[:, i, :1], output["image_intermediates_prefix"][i])
    check(mapped(ours.image, images), output["image_features"])

    normalized = theirs.visual.forward_intermediates(
        torch_images,
        indices=1,
        normalize_intermediates=True,
        output_extra_tokens=True,
        output_fmt="NLC",
    )
    tokens = mapped(ours.image.features, images)
    check(tokens[:, 1:], normalized["image_intermediates"][-1])
    check(tokens[:, :1], normalized["image_intermediates_prefix"][-1])

    theirs.visual.output_tokens = True
    _, patches = theirs.visual(torch_images)
    check(tokens[:, 1:], patches)


def test_a_mean_of_patches_before_the_norm():
    ours, theirs = both(TINY_CLIPA)
    images = images_for(ours, 2).astype(np.float64)
    theirs.visual.output_tokens = True
    pooled, patches = theirs.visual(torch.tensor(images))
    check(mapped(ours.image.features, images)[:, 1:], patches)
    check(mapped(ours.image, images), pooled)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_text_transformer(activation):
    # OpenCLIP's separate text tower, for its `forward_intermediates` and `output_tokens`.
    config = {**copy.deepcopy(TINY_VIT), "custom_text": True}
    ours, theirs = both(config, activation)
    _, _, tokens = inputs(ours)
    torch_tokens = torch.tensor(tokens).long()

    output = theirs.text.forward_intermediates(torch_tokens, output_fmt="NLC")
    blocks = mapped(ours.text.intermediates, tokens)
    assert blocks.shape == (len(TEXTS), 2, 13, 36)
    for i in range(2):
        check(blocks[:, i], output["text_intermediates"][i])
    check(mapped(ours.text, tokens), output["text_features"])

    normalized = theirs.text.forward_intermediates(
        torch_tokens, normalize_intermediates=True, output_fmt="NLC"
    )
    check(mapped(ours.text.features, tokens), normalized["text_intermediates"][-1])

    theirs.text.output_tokens = True
    pooled, all_tokens = theirs.text(torch_tokens)
    check(mapped(ours.text.features, tokens), all_tokens)
    check(mapped(ours.text, tokens), pooled)


def test_convnext_of_any_image_size():
    ours, theirs = both(TINY_CONVNEXT)
    images = np.random.default_rng(0).standard_normal((2, 3, 96, 75))
    torch_images, trunk = torch.tensor(images), theirs.visual.trunk

    outputs = [[] for _ in trunk.stages]
    for stage, kept in zip(trunk.stages, outputs, strict=True):
        for block in stage.blocks:
            block.register_forward_hook(lambda *args, kept=kept: kept.append(args[-1]))
    features = trunk.forward_features(torch_images)

    tower = ours.image
    stages, ours_features, pooled = mapped(
        lambda image: (tower.intermediates(image), tower.features(image), tower(image)), images
    )
    assert [stage.shape for stage in stages] == [
        (2, 3, 96, 24, 18),
        (2, 3, 192, 12, 9),
        (2, 9, 384, 6, 4),
        (2, 3, 768, 3, 2),
    ]
    for stage, kept in zip(stages, outputs, strict=True):
        assert len(kept) == stage.shape[1]
        for i, block in enumerate(kept):
            check(stage[:, i], block)
    check(ours_features, features)

    # OpenCLIP's own call gives the last block of each stage.
    output = theirs.visual.forward_intermediates(torch_images)
    for stage, last in zip(stages, output["image_intermediates"][-4:], strict=True):
        check(stage[:, -1], last)
    check(pooled, output["image_features"])
