"""New models."""

import copy
import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from folders import HUGE, cast, dtypes
from helpers import bitwise_equal

import eqx_clip
from eqx_clip import (
    CLIPConfig,
    Preprocess,
    TextConfig,
    ViTConfig,
)


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"width": 2**40, "num_heads": 1}, "GiB"),
        ({"depth": 10**9}, "parameters, .* GiB, and here are"),
        ({"vocab_size": 2**62}, "parameters, .* GiB, and here are"),
        ({"width": 10**30}, r"`width` must be below 2\*\*63; got an integer of 100 bits"),
        ({"mlp_ratio": 1e300}, "`mlp_ratio=1e\\+300` must give a hidden layer"),
        ({"mlp_ratio": 1e-9}, "`mlp_ratio=1e-09` must give a hidden layer of at least one"),
        ({"mlp_ratio": HUGE}, "`mlp_ratio` must be a number above 0; got an integer of 1329 bits"),
        ({"context_length": 10**6}, "`context_length` must give at most 65,536 tokens"),
    ],
)
def test_create_refuses_absurd_sizes_before_memory_is_taken(sizes, words):
    def config():
        return dataclasses.replace(
            SMALL_CONFIG, text=dataclasses.replace(SMALL_CONFIG.text, **sizes)
        )

    with pytest.raises(ValueError, match=words):
        eqx_clip.create(config(), key=jax.random.key(0))


def test_shapes_of_a_model_beyond_memory_can_be_asked_for():
    text = dataclasses.replace(SMALL_CONFIG.text, vocab_size=2**50)
    config = dataclasses.replace(SMALL_CONFIG, text=text)
    model: Any = eqx.filter_eval_shape(
        lambda key: eqx_clip.create(config, key=key), jax.random.key(0)
    )
    assert model.text.token_embedding.shape == (2**50, 16)


# New models

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16,
        "layers": 1,
        "width": 16,
        "head_width": 8,
        "patch_size": 8,
        "mlp_ratio": 2,
    },
    "text_cfg": {
        "context_length": 8,
        "vocab_size": 64,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "mlp_ratio": 2,
    },
}


# One object, which JAX compiles for once: seconds each time.
SMALL_CONFIG = CLIPConfig(
    image=ViTConfig(
        image_size=16, patch_size=8, width=16, depth=1, num_heads=2, mlp_ratio=2, embed_dim=16
    ),
    text=TextConfig(
        context_length=8, vocab_size=64, width=16, depth=1, num_heads=2, mlp_ratio=2, embed_dim=16
    ),
    preprocess=Preprocess(image_size=16),
    init_logit_scale=2,
    init_logit_bias=-10.0,
)


def test_a_key_of_either_kind_is_taken():
    typed = eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0))
    assert bitwise_equal(eqx_clip.create(SMALL_CONFIG, key=jax.random.PRNGKey(0)), typed)


@pytest.mark.parametrize("key", [0, None, "0", 1.5, np.int64(3), np.zeros(2), "keys", "raw keys"])
def test_what_is_no_key_is_refused_with_the_remedy(key):
    if isinstance(key, str) and key != "0":
        make = jax.random.key if key == "keys" else jax.random.PRNGKey
        key = jax.random.split(make(0), 3)
    for make in (
        lambda: eqx_clip.create(SMALL_CONFIG, key=key),
        lambda: SMALL_CONFIG.build(key=key),
    ):
        with pytest.raises(ValueError, match=r"must be one random key, such as `jax\.random\.key"):
            make()


def test_create_depends_on_nothing_but_configuration_and_key():
    model = eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0))
    assert dtypes(model) == {"float32"}
    assert model.logit_scale == 2 and model.logit_bias == -10
    assert bitwise_equal(model, eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0)))
    assert not bitwise_equal(model, eqx_clip.create(SMALL_CONFIG, key=jax.random.key(1)))
    half = eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0), dtype="bfloat16")
    assert bitwise_equal(half, cast(model, "bfloat16"))
    assert all(not leaf.weak_type for leaf in jax.tree.leaves(model))
    jax.config.update("jax_enable_x64", True)
    try:
        same = eqx_clip.create(
            copy.deepcopy(SMALL), key=jax.random.key(0), init_logit_scale=2, init_logit_bias=-10
        )
    finally:
        jax.config.update("jax_enable_x64", False)
    assert bitwise_equal(model, same)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"name_or_config": "vit-base-patch23"}, r"Did you mean 'vit-base-patch32'"),
        ({"name_or_config": {"embed_dim": 3}}, "has no 'vision_cfg'"),
        ({"dtype": "int8"}, "`dtype` must be of floats, one of 'float32', 'bfloat16', "),
        ({"dtype": "float8_e5m2"}, "`dtype` must be of floats"),
        ({"dtype": "flaot32"}, "`dtype` must be of floats"),
        ({"image_size": 4}, "must hold at least one patch"),
        ({"init_logit_scale": float("nan")}, "`init_logit_scale` must be a finite number"),
        ({"init_logit_bias": float("inf")}, "`init_logit_bias` must be a finite number"),
    ],
)
def test_create_refuses_what_cannot_be_built(options, words):
    with pytest.raises(ValueError, match=words):
        eqx_clip.create(**{"name_or_config": SMALL, "key": jax.random.key(0), **options})
