"""The towers and `CLIP` by themselves: what they refuse, and what holds whatever the weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    TINY_CONVNEXT,
    TINY_RESNET,
    TINY_SIGLIP,
    TINY_VIT,
    bitwise_equal,
    features,
    images_for,
    tiny,
)
from jax import Array
from PIL import Image

from eqx_clip import (
    CLIP,
    CLIPConfig,
    ConvNeXtConfig,
    Preprocess,
    TextConfig,
    Tower,
    ViTConfig,
    train,
)
from eqx_clip.nn import attention, pooling


TEXTS = ["a dog", "", "two dogs and a cat " * 9]
# Two blocks in a stage, so that there is a stack to speak of; two stages, for one downsampling.
SMALL_CONVNEXT = ConvNeXtConfig(image_size=32, depths=(2, 1), widths=(8, 16), embed_dim=24)


def small_convnext():
    """A ConvNeXt of noise that compiles fast."""
    rng = np.random.default_rng(0)
    skeleton = eqx.filter_eval_shape(SMALL_CONVNEXT.build, key=jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape, np.float32)), skeleton
    )


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def convnext():
    return small_convnext()


@pytest.fixture(scope="module")
def image(model):
    return images_for(model, 1)[0]


@pytest.fixture(scope="module")
def tokens(model):
    return model.tokenize(TEXTS)


def close(a, b, tolerance=1e-5):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.abs(a - b).max() <= tolerance * np.abs(b).max()


@eqx.filter_jit
def encode_image(model, image):
    return model.encode_image(image)


@eqx.filter_jit
def encode_text(model, tokens):
    return model.encode_text(tokens)


@eqx.filter_jit
def apply(module, x):
    return module(x)


# Images that are refused


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x: x[None], r"got a batch of shape \(1, 3, 48, 32\).*jax\.vmap\(model\.encode_im"),
        (lambda x: x.transpose(1, 2, 0), r"got channels last, \(48, 32, 3\).*transpose\(2, 0, 1\)"),
        (lambda x: x.transpose(0, 2, 1), r"shape \(3, 48, 32\); got shape \(3, 32, 48\).*resizes"),
        (lambda x: x[:, :-1], r"got shape \(3, 47, 32\)"),
        (lambda x: x[:1], r"got shape \(1, 48, 32\)"),
        (lambda x: x[0], r"got shape \(48, 32\)"),
        (lambda x: x.astype(np.uint8), r"got uint8\. Normalise pixels first: `model\.preprocess\."),
        (lambda x: x.astype(bool), r"got bool"),
        (lambda x: x.tolist(), r"got list\. `model\.preprocess\(image\)` gives it"),
        (lambda x: Image.new("RGB", (32, 48)), r"got Image\. `model\.preprocess\(image\)`"),
        (lambda x: "dog.png", r"got str\. `model\.preprocess\(image\)`"),
        (lambda x: None, r"got NoneType"),
    ],
)
def test_a_wrong_image_is_refused_with_the_remedy(wrong, words, model, image):
    for call in (
        model.encode_image,
        model.image,
        model.image.features,
        model.image.intermediates,
    ):
        with pytest.raises(ValueError, match=words):
            call(wrong(image))


def test_wrong_inputs_are_refused_inside_jit_too(model, image, tokens):
    with pytest.raises(ValueError, match="got a batch"):
        encode_image(model, image[None])
    with pytest.raises(ValueError, match="got a batch"):
        encode_text(model, tokens)


def test_a_convnext_takes_any_size_but_no_other_layout(convnext):
    assert convnext(np.ones((3, 40, 24), np.float32)).shape == (24,)
    for shape, words in [
        ((1, 3, 32, 32), "got a batch"),
        ((32, 32, 3), "got channels last"),
        ((4, 32, 32), r"got shape \(4, 32, 32\)"),
    ]:
        for call in (convnext, convnext.features, convnext.intermediates):
            with pytest.raises(ValueError, match=words):
                call(np.ones(shape, np.float32))
    with pytest.raises(ValueError, match="got uint8"):
        convnext(np.ones((3, 32, 32), np.uint8))


# Texts that are refused


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda t: t, r"got a batch of shape \(3, 13\).*jax\.vmap\(model\.encode_text\)"),
        (lambda t: t[0].astype(np.float32), r"integer token ids; got float32"),
        (lambda t: t[0].astype(bool), r"got bool"),
        (lambda t: np.zeros(14, np.int32), r"at most 13 .*got 14.*`context_length=13`, or load"),
        (lambda t: np.zeros(0, np.int32), r"got shape \(0,\)"),
        (lambda t: np.int32(3) * np.ones((), np.int32), r"got shape \(\)|got int32"),
        (lambda t: t[0].tolist(), r"got list\. `model\.tokenize\(texts\)\[0\]`"),
        (lambda t: "a dog", r"got str\. `model\.tokenize\(texts\)\[0\]`"),
        (lambda t: np.array([49406, 49408, 0]), r"from 0 to 49407.*got 0 to 49408"),
        (lambda t: np.array([49406, -1, 49407]), r"from 0 to 49407.*got -1 to 49407"),
    ],
)
def test_a_wrong_text_is_refused_with_the_remedy(wrong, words, model, tokens):
    for call in (
        model.encode_text,
        model.text,
        model.text.features,
        model.text.intermediates,
    ):
        with pytest.raises(ValueError, match=words):
            call(wrong(tokens))


def test_an_id_outside_the_vocabulary_gives_nan_where_it_cannot_be_refused(model):
    # JAX would read the last token's embedding, or count from the end, and say nothing.
    for bad in (49408, 2**31 - 1, -1, -49408):
        assert jnp.isnan(encode_text(model, jnp.array([49406, bad, 49407]))).all()
    assert not jnp.isnan(encode_text(model, jnp.array([49406, 0, 49407]))).any()


# What the towers give


def test_arrays_of_numpy_and_jax_give_the_same(model, image, tokens):
    assert bitwise_equal(model.encode_image(image), model.encode_image(jnp.asarray(image)))
    for kind in (np.int32, np.int64, np.uint16):
        ids = tokens[0].astype(kind)
        assert bitwise_equal(model.encode_text(ids), model.encode_text(jnp.asarray(tokens[0])))


def test_features_are_of_unit_norm_and_towers_are_not_normalised(model, image, tokens):
    for encode, tower, example in (
        (model.encode_image, model.image, image),
        (model.encode_text, model.text, tokens[0]),
    ):
        raw = tower(example)
        assert abs(float(jnp.linalg.norm(encode(example))) - 1) < 1e-6
        assert bitwise_equal(encode(example, normalize=False), raw)
        assert close(encode(example), raw / jnp.linalg.norm(raw))


@pytest.mark.parametrize("text", TEXTS)
def test_a_shorter_row_gives_the_feature_of_the_padded_one(text, model):
    row = model.tokenize(text)[0]
    end = int(row.argmax()) + 1
    assert close(apply(model.text, row[:end]), apply(model.text, row))


def test_the_future_does_not_change_the_past(model):
    row = np.array([49406, 5, 6, 7, 49407, 0])
    changed = np.array([49406, 5, 6, 8, 49407, 9])
    before, after = model.text.features(row), model.text.features(changed)
    assert close(after[:3], before[:3])
    assert not close(after[3:], before[3:], 1e-2)


def test_features_and_intermediates_of_a_vision_transformer_lead_to_its_output(model, image):
    tower = model.image
    blocks, tokens = tower.intermediates(image), tower.features(image)
    assert blocks.shape == (3, 1 + 6 * 4, 40) and tokens.shape == (1 + 6 * 4, 40)
    assert close(jax.vmap(tower.ln_post)(blocks[-1]), tokens)
    assert close(tokens[0] @ tower.proj, tower(image))


def test_features_and_intermediates_of_a_text_transformer_lead_to_its_output(model, tokens):
    tower, row = model.text, tokens[0]
    blocks, features = tower.intermediates(row), tower.features(row)
    assert blocks.shape == (2, 13, 36) and features.shape == (13, 36)
    assert close(jax.vmap(tower.ln_final)(blocks[-1]), features)
    assert close(features[row.argmax()] @ tower.proj, tower(row))


def test_features_and_intermediates_of_a_convnext_lead_to_its_output(convnext):
    image = np.random.default_rng(0).standard_normal((3, 40, 24), np.float32)
    stages, features = convnext.intermediates(image), convnext.features(image)
    assert [stage.shape for stage in stages] == [(2, 8, 10, 6), (1, 16, 5, 3)]
    assert features.shape == (16, 5, 3)
    assert close(stages[-1][-1], features)
    assert close(convnext.head(convnext.norm(features.mean((1, 2)))), convnext(image))


def test_towers_compute_in_the_dtype_of_their_weights(model, image, tokens):
    half = jax.tree.map(lambda x: jnp.asarray(np.asarray(x).astype(jnp.bfloat16)), model)
    assert jax.eval_shape(half.image, image).dtype == jnp.bfloat16
    assert jax.eval_shape(half.text, tokens[0]).dtype == jnp.bfloat16
    # A unit vector of half precision is none, so features are of float32.
    for encode, example in ((encode_image, image), (encode_text, tokens[0])):
        feature = encode(half, example)
        assert feature.dtype == jnp.float32
        assert abs(float(jnp.linalg.norm(feature)) - 1) < 1e-6
        assert close(feature, encode(model, example), 0.1)


# Transformations


def test_a_mapped_batch_gives_what_each_example_gives(model, tokens):
    images = images_for(model, 3)
    image_features, text_features, _ = features(model, images, tokens)
    for i in range(3):
        assert close(image_features[i], encode_image(model, images[i]))
        assert close(text_features[i], encode_text(model, tokens[i]))


def test_gradients_reach_every_leaf(model, image, tokens):
    @eqx.filter_jit
    @eqx.filter_grad
    def gradients(model, image, row):
        return model.logits(model.encode_image(image), model.encode_text(row))

    for leaf in jax.tree.leaves(gradients(model, image, tokens[0])):
        assert jnp.isfinite(leaf).all() and jnp.any(leaf != 0)


# Stacks


def test_a_stack_is_a_loop_over_its_blocks(model, convnext):
    rng = np.random.default_rng(0)
    for stack, shape in (
        (model.image.stack, (25, 40)),
        (convnext.stages[0].stack, (8, 8, 8)),
    ):
        x = jnp.asarray(rng.standard_normal(shape, np.float32))
        y, outputs = x, []
        for block in stack:
            y = apply(block, y)
            outputs.append(y)
        assert len(outputs) == len(stack) > 1
        assert close(stack(x), y)
        assert close(stack.intermediates(x), jnp.stack(outputs))


def test_a_stack_is_indexed_as_a_list(model):
    stack = model.image.stack
    weights = stack.block.ln_1.weight
    assert len(stack) == 3 and len(list(stack)) == 3
    for i in (0, 2, -1, -3, np.int64(1)):
        assert jnp.array_equal(stack[i].ln_1.weight, weights[i])
    for part, expected in ((stack[1:], weights[1:]), (stack[-2:], weights[-2:])):
        assert type(part) is type(stack) and jnp.array_equal(part.block.ln_1.weight, expected)
    assert len(stack[:2]) == 2 and len(stack[::2]) == 2
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"stack of 3 blocks has no block {i}"):
            stack[i]
    for i in (1.0, "0", None):
        with pytest.raises(TypeError):
            stack[i]


# Any two towers


class MeanColour(eqx.Module):
    """The least that a user's own tower must be."""

    weight: Array

    @property
    def embed_dim(self):
        return self.weight.shape[0]

    def __call__(self, image):
        return self.weight @ image.mean((1, 2))


def test_a_users_own_tower_is_a_tower(model, tokens):
    own = MeanColour(jnp.asarray(np.random.default_rng(0).standard_normal((24, 3), np.float32)))
    assert isinstance(own, Tower) and isinstance(model.image, Tower)
    clip = CLIP(image=own, text=model.text, tokenizer=model.tokenizer)
    assert clip.embed_dim == 24
    image = np.random.default_rng(0).random((3, 5, 7), np.float32)
    assert close(clip.encode_image(image, normalize=False), own(image))
    images, texts = jnp.stack([clip.encode_image(image)] * 2), jax.vmap(clip.encode_text)(tokens)
    assert close(clip.logits(images, texts), (images @ texts.T) / 0.07)
    assert clip.logits(images[0], texts).shape == (3,)
    assert clip.logits(images, texts[0]).shape == (2,)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 24), (3, 25)),
        ((2, 25), (3, 25)),
        ((25,), (3, 24)),
        ((2, 24), ()),
        ((2, 3, 24), (3, 24)),
    ],
    ids=str,
)
def test_logits_of_features_of_another_width_are_refused_with_shapes_and_remedy(model, shapes):
    images, texts = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError) as info:
        model.logits(images, texts)
    words = str(info.value)
    assert "(images, 24) and text features (texts, 24)" in words
    assert f"got {shapes[0]} and {shapes[1]}" in words
    assert "`jax.vmap(model.encode_image)(images)`" in words


def test_towers_of_two_models_combine(model, convnext, tokens):
    clip = CLIP(image=convnext, text=model.text, logit_scale=1, logit_bias=-2.5)
    one = clip.logits(jnp.ones(24), jnp.ones(24))
    assert abs(float(one) - (np.e * 24 - 2.5)) < 1e-4
    assert bitwise_equal(clip.text(tokens[0]), model.text(tokens[0]))
    assert all(eqx.is_array(leaf) and not leaf.weak_type for leaf in jax.tree.leaves(clip))


def test_towers_that_do_not_share_an_embedding_are_refused(model):
    own = MeanColour(jnp.ones((25, 3)))
    with pytest.raises(ValueError, match="image tower gives 25 numbers, the text tower 24"):
        CLIP(image=own, text=model.text)


# Configurations

TEXT: dict[str, Any] = {"width": 16, "depth": 1, "num_heads": 2, "embed_dim": 8}
VIT: dict[str, Any] = {**TEXT, "image_size": 32, "patch_size": 8}
CONVNEXT: dict[str, Any] = {"depths": (1, 1), "widths": (8, 16), "embed_dim": 8}


@pytest.mark.parametrize(
    "config, options, words",
    [
        *(
            (ViTConfig, {**VIT, name: wrong}, f"`{name}` must be a whole number above 0")
            for name in VIT
            for wrong in (0, -1, 1.5, "8", None, True)
        ),
        *(
            (TextConfig, {**TEXT, name: wrong}, f"`{name}` must be a whole number above 0")
            for name in (*TEXT, "context_length", "vocab_size")
            for wrong in (0, 1.5, "8")
        ),
        *(
            (kind, {**sizes, "mlp_ratio": wrong}, "`mlp_ratio` must be a number above 0")
            for kind, sizes in ((ViTConfig, VIT), (TextConfig, TEXT))
            for wrong in (0, -4, float("nan"), float("inf"), "4")
        ),
        (ViTConfig, {**VIT, "num_heads": 3}, "`width=16` must be a multiple of `num_heads=3`"),
        (TextConfig, {**TEXT, "num_heads": 3}, "`width=16` must be a multiple of `num_heads=3`"),
        (ViTConfig, {**VIT, "image_size": (32, 7)}, "must hold at least one patch"),
        (ViTConfig, {**VIT, "image_size": (32, 0)}, r"height, width\); got \(32, 0\)"),
        (ViTConfig, {**VIT, "patch_size": (8, 8, 8)}, r"height, width\); got \(8, 8, 8\)"),
        (ConvNeXtConfig, {**CONVNEXT, "widths": (8,)}, "must be as many"),
        (ConvNeXtConfig, {**CONVNEXT, "widths": (), "depths": ()}, "and at least one"),
        (ConvNeXtConfig, {**CONVNEXT, "depths": (1, 0)}, "`depths` must be a whole number above"),
        (ConvNeXtConfig, {**CONVNEXT, "widths": (8, -2)}, "`widths` must be a whole number above"),
        (ConvNeXtConfig, {**CONVNEXT, "embed_dim": 0}, "`embed_dim` must be a whole number above"),
        (ConvNeXtConfig, {**CONVNEXT, "image_size": 0}, "`image_size` must be a whole number"),
        (ConvNeXtConfig, {**CONVNEXT, "norm_eps": 0}, "`norm_eps` must be a number above 0"),
    ],
)
def test_an_impossible_configuration_is_refused(config, options, words):
    with pytest.raises(ValueError, match=words):
        config(**options)


def test_configurations_are_values():
    assert ViTConfig(**VIT) == ViTConfig(**VIT) and hash(ViTConfig(**VIT)) == hash(ViTConfig(**VIT))
    assert ViTConfig(**{**VIT, "image_size": (32, 24)}).grid == (4, 3)
    assert ViTConfig(**{**VIT, "image_size": 35}).grid == (4, 4)  # whole patches only


def test_pixels_beyond_the_last_whole_patch_are_not_seen():
    config = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": [51, 33]}}
    model = tiny(config)
    image = images_for(model, 1)[0]
    cut = image.copy()
    cut[:, 48:], cut[:, :, 32:] = 9, 9
    assert close(model.image(cut), model.image(image))


# The last block, for the token that is read


@pytest.mark.parametrize("depth", [1, 3])
def test_the_last_block_for_one_token_gives_what_all_tokens_give(depth, x64):
    config = TextConfig(
        context_length=9, vocab_size=99, width=24, depth=depth, num_heads=3, embed_dim=8
    )
    tower = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape, jnp.float64),
        config.build(key=jax.random.key(0)),
    )
    tokens = jnp.asarray([1, 5, 98, 3, 2, 0, 0, 0, 0])

    def read(tower):
        return tower(tokens)

    def whole(tower):
        return tower.features(tokens)[2] @ tower.proj

    def gradients(function):
        return jax.tree.leaves(jax.grad(lambda tower: jnp.sum(function(tower) ** 2))(tower))

    assert close(read(tower), whole(tower), 1e-12)
    for ours, expected in zip(gradients(read), gradients(whole), strict=True):
        assert close(ours, expected, 1e-10)
    tangents = (jax.jvp(function, (tower,), (tower,))[1] for function in (read, whole))
    assert close(*tangents, 1e-10)


def test_a_row_cut_to_its_used_length_gives_the_same_feature(model, tokens):
    lengths = model.text.used_lengths(tokens)
    assert lengths.tolist() == [4, 2, 13]
    for row, length in zip(tokens, lengths, strict=True):
        assert close(model.text(row[:length]), model.text(row))
    with pytest.raises(ValueError, match="this text tower's vocabulary; got 0 to 50000"):
        model.text.used_lengths(np.array([[0, 50000]]))


class Twice(eqx.Module):
    """A user's own part in place of one of a tower's."""

    inner: eqx.Module

    def __call__(self, x):
        return 2 * self.inner(x)


class Mixing(Twice):
    """An MLP in which tokens meet."""

    def __call__(self, x):
        return self.inner(x) + x.mean(0)


class Doubled(attention.Attention):
    """An attention that inherits everything but what it computes."""

    def __call__(self, x):
        return 2 * super().__call__(x)


def doubled(attn):
    new = object.__new__(Doubled)
    for name in ("qkv", "out", "num_heads", "causal"):
        object.__setattr__(new, name, getattr(attn, name))
    return new


PARTS = {
    "attention": (lambda tower: tower.stack.block.attn, Twice),
    "subclass": (lambda tower: tower.stack.block.attn, doubled),
    "mlp": (lambda tower: tower.stack.block.mlp, Mixing),
    "block": (lambda tower: tower.stack.block, Twice),
    "stack": (lambda tower: tower.stack, Twice),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_users_own_changes_what_the_tower_gives(model, image, tokens, part):
    # The last block is computed for one token only where that is known to be the same.
    where, own = PARTS[part]
    images, texts = (
        eqx.tree_at(where, tower, replace_fn=own) for tower in (model.image, model.text)
    )
    assert close(images(image), images.features(image)[0] @ images.proj)
    for row in tokens:
        assert close(texts(row), texts.features(row)[np.argmax(row)] @ texts.proj)
    assert texts.used_lengths(tokens).tolist() == [tokens.shape[1]] * len(tokens)


def test_a_linear_layer_of_a_users_own_leaves_texts_cut(model, tokens):
    text = eqx.tree_at(lambda tower: tower.stack.block.attn.qkv, model.text, replace_fn=Twice)
    assert text.used_lengths(tokens).tolist() == [4, 2, 13]
    for row in tokens:
        assert close(text(row), text.features(row)[np.argmax(row)] @ text.proj)


def test_a_preprocessing_of_another_size_than_the_tower_is_refused():
    sizes = {"width": 16, "depth": 1, "num_heads": 2, "embed_dim": 4}
    image, text = ViTConfig(image_size=24, patch_size=12, **sizes), TextConfig(**sizes)
    with pytest.raises(ValueError, match="of size 36, and the image tower takes 24: give both one"):
        CLIPConfig(image=image, text=text, preprocess=Preprocess(36))


def test_a_pooling_is_replaced(model, image, tokens):
    towers = eqx.tree_at(
        lambda model: (model.image.pool, model.text.pool),
        model,
        (pooling.MeanPatch(), pooling.LastToken()),
    )
    x = model.image.intermediates(image)[-1]
    assert close(towers.image(image), model.image.ln_post(x[1:].mean(0)) @ model.image.proj)
    assert close(towers.text(tokens[0]), model.text.features(tokens[0])[-1] @ model.text.proj)
    assert towers.text.used_lengths(tokens).tolist() == [tokens.shape[1]] * len(tokens)


def test_a_step_trains_an_attention_of_a_users_own(model, image, tokens):
    where, own = PARTS["attention"]
    model = eqx.tree_at(lambda model: where(model.image), model, replace_fn=own)
    optimizer = train.adamw(1e-3)
    batch = {"image": jnp.stack([image, -image]), "tokens": tokens[:2]}
    for remat in ("none", "full"):
        state = train.init_state(model, optimizer)
        _, metrics = train.make_train_step(optimizer, remat=remat)(state, batch)
        assert np.isfinite(metrics["grad_norm"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("config", [TINY_VIT, TINY_CONVNEXT, TINY_RESNET, TINY_SIGLIP])
def test_no_tower_asks_which_devices_the_tracing_machine_has(config, dtype, monkeypatch):
    model = tiny(config)
    model = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, model
    )
    image, tokens = images_for(model, 1)[0], jnp.zeros(4, jnp.int32)

    def asked(*arguments, **options):
        raise AssertionError("The devices of this machine were asked for.")

    for name in ("devices", "local_devices", "default_backend", "device_count"):
        monkeypatch.setattr(jax, name, asked)
    jax.export.export(jax.jit(lambda x: model.image(x)), platforms=["cuda", "tpu"])(image)
    jax.export.export(jax.jit(lambda x: model.text(x)), platforms=["cuda", "tpu"])(tokens)


DEEP_VIT = {
    "embed_dim": 64,
    **{
        name: {**TINY_VIT[name], "layers": 12, "width": 64, "mlp_ratio": 4.0}
        for name in ("vision_cfg", "text_cfg")
    },
}
DEEP_VIT["vision_cfg"]["head_width"], DEEP_VIT["text_cfg"]["heads"] = 16, 4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("config", [TINY_VIT, TINY_CONVNEXT, DEEP_VIT])
def test_half_precision_points_the_same_way(config, dtype):
    model = tiny(config)
    half = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
    for method, example in (
        ("encode_image", images_for(model, 1)[0]),
        ("encode_text", model.tokenize(TEXTS)[0]),
    ):
        ours, expected = (getattr(m, method)(example) for m in (half, model))
        assert ours.dtype == jnp.float32
        assert ours @ expected > 0.999


def test_a_convnext_refuses_images_of_which_nothing_would_be_left(convnext):
    with pytest.raises(ValueError, match="below 8 x 8 pixels; got a side of 7"):
        convnext(jnp.ones((3, 7, 40)))


# What JAX's own transformations are told


@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, jax.pmap])
@pytest.mark.parametrize(
    "function",
    [
        lambda model: model.encode_image,
        lambda model: model.encode_text,
        lambda model: model.logits,
        lambda model: model.image,
        lambda model: model.text.features,
        lambda model: model.image.stack,
    ],
)
def test_what_jax_cannot_hash_is_told_what_takes_it(model, image, transform, function):
    with pytest.raises(
        TypeError, match=r"`eqx\.filter_jit\(model\.encode_image\)`.*filter_checkpoint"
    ):
        transform(function(model))(image)


def test_equinoxs_transformations_take_methods(model, image):
    expected = model.encode_image(image)
    for transform in (eqx.filter_jit, eqx.filter_checkpoint):
        np.testing.assert_allclose(transform(model.encode_image)(image), expected, atol=1e-6)


def test_a_model_without_its_arrays_is_hashed(model):
    _, static = eqx.partition(model, eqx.is_array)
    assert hash(static) == hash(eqx.partition(model, eqx.is_array)[1])
