"""The residual network and its parts by themselves."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative_error

from eqx_clip.nn.attention_pool import AttentionPool2d
from eqx_clip.nn.batch_norm import BatchNorm2d, buffers
from eqx_clip.nn.bottleneck import average_pool
from eqx_clip.nn.conv import Conv2d
from eqx_clip.towers.resnet import ResNetConfig, Stage


SMALL = ResNetConfig(image_size=(64, 32), depths=(3, 1, 2, 1), width=4, embed_dim=6, num_heads=2)


@pytest.fixture(scope="module")
def tower():
    """A tower of noise, with statistics of noise."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if leaf.dtype == jnp.int32:
            return jnp.full(leaf.shape, 7, jnp.int32)
        noise = rng.standard_normal(leaf.shape, np.float32)
        is_gain = "running_var" in name or (".bn" in name and name.endswith(".weight"))
        return jnp.asarray(1 + 0.1 * np.abs(noise) if is_gain else 0.2 * noise)

    skeleton = eqx.filter_eval_shape(SMALL.build, key=jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, skeleton)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).standard_normal((3, 3, 64, 32), np.float32)


@eqx.filter_jit
def encode(tower, images):
    return jax.vmap(tower)(images)


# Configurations


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"depths": (3, 4, 6)}, r"`depths=(3, 4, 6)` must be four numbers"),
        ({"depths": (3, 4, 0, 3)}, "`depths` must be a whole number above 0; got 0"),
        ({"width": 0}, "`width` must be a whole number above 0; got 0"),
        ({"width": 1}, "`width` must be at least 2; got 1"),
        ({"num_heads": 7}, "32 times `width=4`, must be a multiple of `num_heads=7`"),
        ({"embed_dim": 1.5}, "`embed_dim` must be a whole number above 0; got 1.5"),
        ({"image_size": 30}, "`image_size=30` must be at least 31 pixels a side"),
        ({"image_size": (64, 16)}, "`image_size=(64, 16)` must be at least 31 pixels a side"),
        ({"image_size": "big"}, "`image_size` must be a whole number above 0, or (height, width)"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong, words):
    right = {"depths": (1, 1, 1, 1), "width": 4, "embed_dim": 6, "num_heads": 2}
    with pytest.raises(ValueError, match=re.escape(words)):
        ResNetConfig(**{**right, **wrong})


def test_configurations_are_values():
    config = ResNetConfig(
        image_size=(np.int64(64), 32),
        depths=(np.int64(3), 1, 2, 1),
        width=4,
        embed_dim=6,
        num_heads=2,
    )
    assert config == SMALL and hash(config) == hash(SMALL)
    assert SMALL.grid == (2, 1) and SMALL.last_width == 128


# The tower


def test_shapes(tower, images):
    assert tower.embed_dim == 6
    assert tower(images[0]).shape == (6,)
    assert tower.features(images[0]).shape == (128, 2, 1)
    maps = tower.intermediates(images[0])
    assert [y.shape for y in maps] == [
        (4, 16, 8),
        (16, 16, 8),
        (32, 8, 4),
        (64, 4, 2),
        (128, 2, 1),
    ]
    assert np.array_equal(maps[-1], tower.features(images[0]))


@pytest.mark.parametrize("side", [31, 32, 62, 63, 64, 75])
def test_the_last_map_of_any_size_is_the_grid(side):
    config = ResNetConfig(
        image_size=(side, 64), depths=(1, 1, 1, 1), width=2, embed_dim=6, num_heads=2
    )
    tower = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
    image = jax.ShapeDtypeStruct((3, side, 64), jnp.float32)
    assert eqx.filter_eval_shape(tower.features, image).shape[1:] == config.grid
    assert eqx.filter_eval_shape(tower, image).shape == (6,)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x: x[None], r"got a batch of shape \(1, 3, 64, 32\).*jax\.vmap"),
        (lambda x: x.transpose(1, 2, 0), "got channels last"),
        (lambda x: x[:, :-1], r"got shape \(3, 63, 32\)"),
        (lambda x: x.astype(np.uint8), "got uint8"),
        (lambda x: None, "got NoneType"),
    ],
)
def test_a_wrong_image_is_refused(wrong, words, tower, images):
    for call in (tower, tower.features, tower.intermediates):
        with pytest.raises(ValueError, match=words):
            call(wrong(images[0]))


def test_a_batch_is_mapped_and_compiled_once(tower, images):
    compiled = eqx.filter_jit(
        eqx.debug.assert_max_traces(lambda t, x: jax.vmap(t)(x), max_traces=1)
    )
    y = compiled(tower, images)
    compiled(jax.tree.map(lambda leaf: leaf, tower), images + 1)
    assert relative_error(y, np.stack([tower(image) for image in images])) < 1e-5


def test_all_bottlenecks_of_a_stage_but_the_first_are_a_stack(tower, images):
    rests = [stage.stack for stage in tower.stages]
    assert [None if stack is None else len(stack) for stack in rests] == [2, None, 1, None]
    downsampled = [stage.first.downsample is not None for stage in tower.stages]
    assert all(downsampled) and tower.layer1.stack.block.downsample is None

    _, x, *_ = tower.intermediates(images[0])
    one_by_one = tower.layer1.first(tower._stem(jnp.asarray(images[0])))
    for i in range(2):
        one_by_one = tower.layer1.stack[i](one_by_one)
    assert relative_error(one_by_one.transpose(2, 0, 1)[None], x[None]) < 1e-5


def test_half_precision_stays_near(tower, images):
    def cast(leaf):
        return leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf

    half = encode(jax.tree.map(cast, tower), images)
    assert half.dtype == jnp.bfloat16
    assert relative_error(half, encode(tower, images)) < 0.05


def test_another_projection_in_place_of_the_keys(tower, images):
    class Wrapped(eqx.Module):
        layer: eqx.nn.Linear

        def __call__(self, x):
            return self.layer(x)

    def wrapped(layer):
        return eqx.tree_at(layer, tower, Wrapped(layer(tower)))

    for layer in (lambda tower: tower.attnpool.k_proj, lambda tower: tower.attnpool.v_proj):
        assert relative_error(encode(wrapped(layer), images), encode(tower, images)) < 1e-5


def test_a_new_stage_is_openclips():
    stage = Stage(8, 16, 3, 2, key=jax.random.key(0))
    assert not stage.first.bn3.weight.any() and not stage.stack.block.bn3.weight.any()
    assert stage.first.bn1.weight.all() and stage.first.downsample.bn.weight.all()
    bound = (9 * 16) ** -0.5
    assert 0.95 * bound < abs(stage.stack.block.conv2.weight).max() <= bound
    assert {leaf.dtype.name for leaf in jax.tree.leaves(stage)} == {"float32", "int32"}


def test_a_new_attention_pool_is_openclips():
    pool = AttentionPool2d(4, 256, 2, 64, key=jax.random.key(0))
    assert pool.positional_embedding.shape == (5, 256)
    for layer in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
        assert abs(layer.weight.std() * 16 - 1) < 0.05
        assert 0 < abs(layer.bias).max() <= 1 / 16


# Buffers


def test_buffers_are_the_statistics(tower):
    flags = buffers(tower)
    assert jax.tree.structure(flags) == jax.tree.structure(tower)
    names = ("running_mean", "running_var", "num_batches_tracked")
    for path, flag in jax.tree_util.tree_leaves_with_path(flags):
        assert flag is (path[-1].name in names)
    parameters = eqx.filter(tower, eqx.is_inexact_array)
    assert sum(jax.tree.leaves(buffers(parameters))) == 2 * sum(jax.tree.leaves(flags)) // 3
    assert buffers({"weight": jnp.ones(2), "none": None}) == {"weight": False, "none": None}


def test_buffers_take_no_gradient_and_parameters_do(tower, images):
    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(tower, images):
        return jnp.sum(jax.vmap(tower)(images) ** 2)

    gradients = gradient(tower, images)
    flags = buffers(gradients)
    for (path, leaf), is_buffer in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(flags), strict=True
    ):
        name = jax.tree_util.keystr(path)
        # The keys' bias adds the same to all scores.
        is_zero = is_buffer or name == ".attnpool.k_proj.bias"
        assert bool(jnp.any(leaf != 0)) is not is_zero, name
    assert gradients.bn1.num_batches_tracked is None


# The parts


@pytest.mark.parametrize(
    "size, stride, padding, use_bias",
    [(1, 1, 0, True), (1, 2, 0, False), (3, 1, 1, True), (3, 2, 1, False), (2, 2, 0, True)],
)
def test_a_convolution_is_its_sum(size, stride, padding, use_bias):
    conv = Conv2d(
        3, 5, size, stride=stride, padding=padding, use_bias=use_bias, key=jax.random.key(0)
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((7, 6, 3), np.float32))
    padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))
    expected = np.einsum("hwcij,ocij->hwo", windows[::stride, ::stride], conv.weight)
    expected += 0 if conv.bias is None else conv.bias
    assert relative_error(conv(x), expected) < 1e-5
    assert conv(x.astype(jnp.bfloat16)).dtype == jnp.float32
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), conv)
    assert half(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    y = half(x.astype(jnp.bfloat16), dtype=jnp.float32)
    assert y.dtype == jnp.float32 and relative_error(y, expected) < 0.02


def test_a_new_batch_norm_divides_by_nearly_one():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4), np.float32))
    assert relative_error(BatchNorm2d(4)(x), x / np.sqrt(1 + 1e-5)) < 1e-6
    assert BatchNorm2d(4)(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_an_average_pool_drops_what_fills_no_square():
    x = jnp.arange(5 * 4 * 2, dtype=jnp.float32).reshape(5, 4, 2)
    expected = x[:4].reshape(2, 2, 2, 2, 2).mean((1, 3))
    assert np.array_equal(average_pool(x, 2), expected)
    assert average_pool(x, 1) is x
