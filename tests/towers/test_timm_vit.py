"""timm's vision transformer and its parts by themselves, and the text tower beside it."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative_error

from eqx_clip import TextConfig, TimmViTConfig
from eqx_clip.nn.activations import ACTIVATIONS
from eqx_clip.nn.initializers import truncated_normal
from eqx_clip.nn.pooling import FirstId


SMALL = TimmViTConfig(
    image_size=(32, 24), patch_size=8, width=16, depth=2, num_heads=2, mlp_ratio=2.5
)
TEXT = {"width": 16, "depth": 1, "num_heads": 2, "embed_dim": 16}


@pytest.fixture(scope="module")
def tower():
    """A tower of noise."""
    rng = np.random.default_rng(0)
    skeleton = eqx.filter_eval_shape(SMALL.build, key=jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape, np.float32)), skeleton
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).standard_normal((3, 3, 32, 24), np.float32)


@eqx.filter_jit
def encode(tower, images):
    return jax.vmap(tower)(images)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"width": 0}, "`width` must be a whole number above 0; got 0"),
        ({"num_heads": 3}, "`width=16` must be a multiple of `num_heads=3`"),
        ({"image_size": (32, 7)}, "`image_size=(32, 7)` must hold at least one patch of `patch_si"),
        ({"activation": "relu"}, "`activation` must be one of 'gelu', 'quick_gelu', 'gelu_tanh'"),
        ({"norm_eps": 0}, "`norm_eps` must be a number above 0"),
        ({"mlp_ratio": 0.01}, "`mlp_ratio=0.01` must give a hidden layer"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, words):
    right = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}
    with pytest.raises(ValueError, match=re.escape(words)):
        TimmViTConfig(**{**right, **wrong})


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"pooling": "first_id"}, "`eos_id` goes with `pooling='first_id'`, and only with it"),
        ({"eos_id": 2}, "`eos_id` goes with `pooling='first_id'`, and only with it"),
        ({"pooling": "first_id", "eos_id": -1}, "`eos_id` must be a whole number of at least 0"),
        ({"projection": "mlp"}, "`projection` must be one of 'matrix', 'linear', 'none'"),
        ({"projection": "none", "embed_dim": 8}, "`embed_dim=8` must be `width=16`"),
    ],
)
def test_a_wrong_configuration_of_a_text_tower_is_refused(wrong, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        TextConfig(**{**TEXT, **wrong})


def test_shapes(tower, images):
    assert tower.embed_dim == SMALL.embed_dim == 16 and SMALL.grid == (4, 3)
    assert tower(images[0]).shape == (16,)
    assert tower.features(images[0]).shape == (12, 16)
    assert tower.intermediates(images[0]).shape == (2, 12, 16)
    assert SMALL.with_quick_gelu() == SMALL


def test_the_feature_is_that_of_its_parts(tower, images):
    tokens = tower.features(images[0])
    last = jax.vmap(tower.ln_post)(tower.intermediates(images[0])[-1])
    assert relative_error(tokens, last) < 1e-5
    assert relative_error(tower.map_head(tokens)[None], tower(images[0])[None]) < 1e-5
    # Of no order: positions are in the tokens.
    assert relative_error(tower.map_head(tokens[::-1])[None], tower(images[0])[None]) < 1e-5


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x: x[None], r"got a batch of shape \(1, 3, 32, 24\).*jax\.vmap"),
        (lambda x: x.transpose(1, 2, 0), "got channels last"),
        (lambda x: x[:, :-1], r"got shape \(3, 31, 24\)"),
        (lambda x: x.astype(np.uint8), "got uint8"),
    ],
)
def test_a_wrong_image_is_refused(wrong, words, tower, images):
    for call in (tower, tower.features, tower.intermediates):
        with pytest.raises(ValueError, match=words):
            call(wrong(images[0]))


def test_patch_dropout_leaves_patches_out(tower, images):
    full = tower(images[0])
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (tower(images[0], patch_dropout=0.5, key=key) for key in keys)
    assert not np.allclose(first, full) and not np.allclose(first, second)
    # One is left.
    one = tower(images[0], patch_dropout=0.99, key=keys[0])
    chosen = tower._embed(jnp.asarray(images[0]), 0.99, keys[0])
    assert chosen.shape == (1, 16) and np.isfinite(one).all()
    assert (chosen[0] == tower._embed(jnp.asarray(images[0]))).all(1).any()
    for share, key in ((0.5, None), (1.0, keys[0]), (-0.1, keys[0])):
        with pytest.raises(ValueError, match="`patch_dropout` must be at least 0 and less than 1"):
            tower(images[0], patch_dropout=share, key=key)


def test_gradients_reach_every_leaf_but_the_biases_of_keys(tower, images):
    gradients = eqx.filter_jit(
        eqx.filter_grad(lambda tower, images: jnp.sum(jax.vmap(tower)(images) ** 2))
    )(tower, images)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and jnp.any(leaf != 0), jax.tree_util.keystr(path)
    keys, values = jnp.split(gradients.map_head.kv.bias, 2)
    assert jnp.abs(keys).max() < 1e-4 * jnp.abs(values).max()  # which the softmax takes out


def test_half_precision_stays_near(tower, images):
    half = encode(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tower), images)
    assert half.dtype == jnp.bfloat16
    assert relative_error(half, encode(tower, images)) < 0.1


def test_the_head_is_the_last_group_of_layers(tower):
    groups = tower.layer_groups()
    numbers = groups.numbers
    assert groups.count == 4 and not groups.unlocked
    assert numbers.patch.bias == numbers.positional_embedding == 0
    assert numbers.stack.block.mlp.up.weight.ravel().tolist() == [1, 2]
    assert numbers.ln_post.weight == 2
    assert {int(number) for number in jax.tree.leaves(numbers.map_head)} == {3}


def test_operations_are_counted():
    tower = eqx.filter_eval_shape(SMALL.build, key=jax.random.key(0))
    blocks = 2 * 12 * sum(leaf.size for leaf in jax.tree.leaves(tower.stack)) + 4 * 2 * 16 * 12**2
    patches, head = 2 * 12 * 16 * 3 * 64, 2 * (16 * 16 + 2 * 16 * 40) + 2 * 12 * 2 * 16 * 16
    assert tower.flops() == pytest.approx(blocks + patches + head, rel=0.01)


def test_a_new_head_is_timms():
    head = TimmViTConfig(
        image_size=8, patch_size=8, width=256, depth=1, num_heads=4
    ).build(key=jax.random.key(0)).map_head  # fmt: skip
    assert head.latent.shape == (1, 256) and jnp.abs(head.latent).max() <= 2 / 16
    for layer in (head.q, head.kv, head.proj, head.mlp.up, head.mlp.down):
        assert abs(layer.weight.std() / 0.02 - 1) < 0.05 and not layer.bias.any()


def test_a_truncated_normal_is_cut_at_two_standard_deviations():
    values = truncated_normal(0.5)(jax.random.key(0), (10_000,))
    assert 0.99 < jnp.abs(values).max() <= 1
    assert abs(values.std() / 0.5 - 0.8796) < 0.02


def test_the_gelu_by_a_tangent():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    y = np.asarray(ACTIVATIONS["gelu_tanh"](jnp.asarray(x)))
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)
    assert np.abs(y - 0.5 * x * (1 + np.tanh(inner))).max() < 1e-6
    assert 1e-5 < np.abs(y - ACTIVATIONS["gelu"](jnp.asarray(x))).max() < 1e-3
    assert ACTIVATIONS["gelu_tanh"](jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


# The text tower


def test_projections_of_a_text_tower():
    tokens = np.arange(5, dtype=np.int32)
    kinds = {
        kind: TextConfig(**TEXT, context_length=5, vocab_size=9, projection=kind).build(
            key=jax.random.key(0)
        )
        for kind in ("matrix", "linear", "none")
    }
    pooled = kinds["none"](tokens)
    assert kinds["none"].proj is None and kinds["none"].proj_bias is None
    assert kinds["matrix"].proj_bias is None and not kinds["linear"].proj_bias.any()
    assert (
        relative_error(kinds["matrix"](tokens)[None], (pooled @ kinds["matrix"].proj)[None]) < 1e-5
    )
    linear = eqx.tree_at(lambda tower: tower.proj_bias, kinds["linear"], jnp.arange(16.0))
    expected = pooled @ linear.proj + jnp.arange(16.0)
    assert relative_error(linear(tokens)[None], expected[None]) < 1e-5
    assert linear.flops() == kinds["matrix"].flops() == kinds["none"].flops() + 2 * 16 * 16
    numbers = linear.layer_groups().numbers
    assert numbers.proj == numbers.proj_bias == 2


def test_texts_are_cut_behind_the_first_end_where_attention_is_causal():
    options = {**TEXT, "context_length": 4, "vocab_size": 9, "pooling": "first_id", "eos_id": 2}
    rows = np.asarray([[5, 2, 8, 2], [5, 6, 7, 2], [5, 6, 7, 8]])
    for causal, lengths in ((True, [2, 4, 1]), (False, [4, 4, 4])):
        tower = TextConfig(**options, causal=causal).build(key=jax.random.key(0))
        assert tower.pool == FirstId(2)
        assert tower.used_lengths(rows).tolist() == lengths
