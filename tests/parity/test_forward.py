"""Image features, text features and logits against OpenCLIP with the same weights."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_CONVNEXT, TINY_VIT, features, relative_error
from models import (
    OPEN_CLIP_NAMES,
    TEXTS,
    batch_for,
    nano_config,
    oracle_config,
    oracle_features,
    oracle_model,
    save_oracle,
    state_dict,
)
from oracle import open_clip, torch

import eqx_clip


ALL = ("vit-nano-patch32", *OPEN_CLIP_NAMES)
HUGE = ("vit-huge-patch16", "vit-huge-patch14")


def errors(ours, oracle, images=2):
    images, tokens = batch_for(ours, images)
    return [
        relative_error(mine, theirs)
        for mine, theirs in zip(
            features(ours, images, tokens), oracle_features(oracle, images, tokens), strict=True
        )
    ]


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_equals_openclip_in_float32(name, tmp_path):
    layers = 2 if name in HUGE else None  # whole in benchmarks/huge_parity.py: 16 GB
    config = oracle_config(name, layers=layers)
    oracle = oracle_model(config)
    if layers is None:
        ours = eqx_clip.load(name, save_oracle(oracle, tmp_path / "weights.safetensors"))
    else:
        ours = eqx_clip.from_state_dict(config, state_dict(oracle))
    assert max(errors(ours, oracle)) < 2e-5


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_equals_openclip_in_float64_at_full_width(name, x64):
    config = oracle_config(name, layers=2)
    oracle = oracle_model(config, dtype=torch.float64)
    ours = eqx_clip.from_state_dict(config, state_dict(oracle))
    assert max(errors(ours, oracle, images=1)) < 1e-10
