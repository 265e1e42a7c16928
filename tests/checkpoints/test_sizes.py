"""Images and texts of other sizes than the weights'."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import (
    NANO,
    WEIGHTS,
    cast,
    edit_tensors,
    put,
)
from helpers import bitwise_equal
from safetensors.numpy import save_file

import eqx_clip
from eqx_clip import (
    Preprocess,
)


# Other sizes


def test_the_size_that_is_there_already_changes_nothing(model, folder):
    assert bitwise_equal(eqx_clip.load(folder, image_size=(48, 32), context_length=13), model)


def test_image_size_resizes_positions_and_preprocessing(model, folder):
    resized: Any = eqx_clip.load(folder, image_size=(64, 48))
    assert resized.preprocess == Preprocess(image_size=(64, 48))
    assert resized.image.config.image_size == (64, 48)
    positions, old = resized.image.positional_embedding, model.image.positional_embedding
    assert positions.shape == (1 + 8 * 6, 40)
    assert jnp.all(positions[0] == old[0])  # the class token is no patch
    assert bitwise_equal(resized.text, model.text)
    image = jax.ShapeDtypeStruct((3, 64, 48), jnp.float32)
    assert jax.eval_shape(resized.encode_image, image).shape == (24,)


def test_image_size_of_a_convnext_is_the_preprocessings(convnext_folder):
    model = eqx_clip.load(convnext_folder)
    resized: Any = eqx_clip.load(convnext_folder, image_size=96)
    assert model.preprocess.image_size == 64
    assert resized.preprocess.image_size == resized.image.config.image_size == 96
    for ours, theirs in zip(jax.tree.leaves(resized), jax.tree.leaves(model), strict=True):
        assert np.array_equal(ours, theirs)


def test_context_length_resizes_positions_and_tokenizer(model, folder):
    for length in (5, 20):
        resized: Any = eqx_clip.load(folder, context_length=length)
        assert resized.text.positional_embedding.shape == (length, 36)
        assert resized.tokenize("a dog").shape == (1, length)
        assert bitwise_equal(resized.image, model.image)


def test_resized_bfloat16_is_the_resized_float32_rounded_once(folder):
    options = {"image_size": (64, 48), "context_length": 20}
    expected = cast(eqx_clip.load(folder, **options), "bfloat16")
    assert bitwise_equal(eqx_clip.load(folder, dtype="bfloat16", **options), expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_size": 0}, "`image_size` must be a positive whole number"),
        ({"image_size": "48"}, "`image_size` must be a positive whole number"),
        ({"image_size": (48, 32, 3)}, "`image_size` must be a positive whole number"),
        ({"image_size": 4}, "must hold at least one patch"),
        ({"context_length": 0}, "`context_length` must be a whole number above 0"),
        ({"context_length": 1}, "`context_length` must be at least 2"),
        ({"context_length": 9.0}, "`context_length` must be a whole number above 0"),
    ],
)
def test_impossible_sizes_are_refused(folder, options, words):
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(folder, **options)


# Weights of another size than their configuration says. What they are resized to, and how, is
# compared with OpenCLIP in tests/parity.


def positions(model):
    return [np.asarray(tower.positional_embedding) for tower in (model.image, model.text)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_the_size_that_is_asked_for_are_taken_as_they_are(folder, dtype):
    tuned: Any = eqx_clip.load(folder, image_size=(80, 64), context_length=21, dtype=dtype)
    save_file(eqx_clip.to_state_dict(tuned), folder / WEIGHTS)
    loaded = eqx_clip.load(folder, image_size=(80, 64), context_length=21, dtype=dtype)
    assert bitwise_equal(loaded, tuned)


def test_weights_of_another_size_are_resized_to_the_configurations(folder):
    tuned: Any = eqx_clip.load(folder, image_size=64, context_length=21)
    save_file(eqx_clip.to_state_dict(tuned), folder / WEIGHTS)
    loaded: Any = eqx_clip.load(folder)
    assert loaded.preprocess.image_size == (48, 32) and loaded.tokenizer.context_length == 13
    assert [len(x) for x in positions(loaded)] == [25, 13]
    resized: Any = eqx_clip.load(folder, image_size=32, context_length=8)
    assert [len(x) for x in positions(resized)] == [17, 8]
    for model in (loaded, resized):
        assert np.array_equal(positions(model)[0][0], positions(tuned)[0][0])  # the class token
        assert bitwise_equal(model.image.stack, tuned.image.stack)


@pytest.mark.parametrize("options", [{}, {"image_size": 96}, {"context_length": 7}], ids=str)
def test_a_file_of_a_name_is_resized_to_what_is_asked_for_or_the_names(nano, tmp_path, options):
    path = tmp_path / "weights.safetensors"
    eqx_clip.save(nano, tmp_path / "nano")
    tuned = eqx_clip.load(tmp_path / "nano", image_size=160, context_length=20)
    save_file(eqx_clip.to_state_dict(tuned), path)
    loaded: Any = eqx_clip.load(NANO, path, **options)
    size, length = options.get("image_size", 224), options.get("context_length", 77)
    assert loaded.preprocess.image_size == loaded.image.config.image_size == size
    assert [len(x) for x in positions(loaded)] == [1 + (size // 32) ** 2, length]


def test_a_file_with_a_configuration_of_another_size_has_that_size(nano, tmp_path):
    eqx_clip.save(nano, tmp_path / "nano")
    tuned = eqx_clip.load(tmp_path / "nano", image_size=160, context_length=20)
    eqx_clip.save(tuned, tmp_path / "tuned")
    assert bitwise_equal(eqx_clip.load(NANO, tmp_path / "tuned" / WEIGHTS), tuned)
    back: Any = eqx_clip.load(NANO, tmp_path / "tuned" / WEIGHTS, image_size=224)
    assert back.preprocess.image_size == 224 and back.tokenizer.context_length == 20


@pytest.mark.parametrize("count", [24, 2, 1, 0])
def test_positions_that_are_no_square_are_refused_with_the_remedy(folder, count):
    edit_tensors(folder, put("visual.positional_embedding", np.zeros((count, 40), np.float32)))
    patches = max(count - 1, 0)
    words = (
        rf"24 patches, the weights have positions of {patches}, .*`image_size=\(height, width\)`"
    )
    for options in ({}, {"image_size": 64}):
        if count != 2:  # one patch is a square
            with pytest.raises(ValueError, match=words) as info:
                eqx_clip.load(folder, **options)
            assert "torch" not in str(info.value)
    if count == 2:
        eqx_clip.load(folder)


@pytest.mark.parametrize(
    "name, shape", [("positional_embedding", (36,)), ("positional_embedding", (12, 35))]
)
def test_positions_of_another_kind_are_refused_by_their_shape(folder, name, shape):
    edit_tensors(folder, put(name, np.zeros(shape, np.float32)))
    with pytest.raises(ValueError, match=rf"'{name}' must have shape \(13, 36\)") as info:
        eqx_clip.load(folder)
    assert "torch" not in str(info.value)
