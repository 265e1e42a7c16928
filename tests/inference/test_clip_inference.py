import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_model, tiny
from PIL import Image

import eqx_clip
from eqx_clip.inference import embed as embedding


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    eqx_clip.save(tiny(), folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder):
    return eqx_clip.CLIPInference(folder)


def pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (50 + i, 40, 3), np.uint8) for i in range(count)]


def test_probabilities_are_rows_that_sum_to_one_both_ways(clip):
    per_image, per_text = clip(pictures(3), ["a", "b"])
    assert per_image.shape == (3, 2) and per_text.shape == (2, 3)
    np.testing.assert_allclose(per_image.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(per_text.sum(1), 1, atol=1e-6)


def test_one_image_and_one_text_are_taken_as_lists_of_one(clip):
    picture = pictures(1)[0]
    forms = [picture, Image.fromarray(picture), [picture], jnp.asarray(picture)]
    results = [clip(form, "a")[0] for form in forms]
    assert results[0].shape == (1, 1)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_images_may_be_one_array(clip):
    several = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    for ours, expected in zip(clip(several, "a dog"), clip(list(several), "a dog"), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_paths_and_bytes_are_images(clip, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0]).save(path)
    expected = clip(pictures(1)[0], ["a", "b"])[0]
    for form in (path, str(path), path.read_bytes(), [path]):
        np.testing.assert_array_equal(clip(form, ["a", "b"])[0], expected)


def test_temperature_is_the_learned_one_by_default_a_number_or_none(folder):
    images, texts = pictures(2), ["a", "b", "c"]

    def scores(**options):
        return np.asarray(eqx_clip.CLIPInference(folder, **options)(images, texts)[0])

    def softmax(x):
        x = np.exp(x - x.max(1, keepdims=True))
        return x / x.sum(1, keepdims=True)

    cosines = scores(softmax_temp=None)
    assert np.abs(cosines).max() <= 1 + 1e-6
    learned = np.exp(float(eqx_clip.load(folder).logit_scale))
    np.testing.assert_allclose(scores(), softmax(learned * cosines), atol=1e-5)
    for temperature in (3, np.float32(3), jnp.float32(3)):
        found = scores(softmax_temp=temperature)
        np.testing.assert_allclose(found, softmax(3 * cosines), atol=1e-5)
    assert np.abs(scores() - scores(softmax_temp=100.0)).max() > 1e-3


def test_more_images_than_a_batch_give_what_one_at_a_time_give(clip):
    images = pictures(70)
    together = clip(images, ["a", "b"])[0]
    np.testing.assert_allclose(together[-1:], clip(images[-1], ["a", "b"])[0], atol=1e-5)


def test_random_weights_come_with_a_warning():
    with pytest.warns(UserWarning, match="random weights"):
        clip = eqx_clip.CLIPInference("vit-nano-patch32", pretrained=False)
    assert clip(pictures(1), ["a", "b"])[0].shape == (1, 2)


def test_bad_arguments_are_named(clip, folder):
    with pytest.raises(ValueError, match="`softmax_temp` must be a finite number; got 'warm'"):
        eqx_clip.CLIPInference(folder, softmax_temp="warm")
    with pytest.raises(ValueError, match="`pretrained` must be a tag, True or False"):
        eqx_clip.CLIPInference(folder, 100.0)
    with pytest.raises(ValueError, match="vit-base-patch32"):
        eqx_clip.CLIPInference("vit-base-patch23")
    with pytest.raises(ValueError, match="`softmax_temp` must be a finite number; got nan"):
        eqx_clip.CLIPInference(folder, softmax_temp=float("nan"))
    for large in (1e39, 10**400):  # infinite in float32
        with pytest.raises(ValueError, match="`softmax_temp` must be a finite number"):
            eqx_clip.CLIPInference(folder, softmax_temp=large)
    with pytest.raises(ValueError):
        clip(pictures(1), [3])
    with pytest.raises(ValueError, match="Expected several images in a list; got None"):
        clip(None, "a dog")


def test_a_model_in_memory_is_taken_as_it_is(clip, folder):
    model = eqx_clip.load(folder)
    given = eqx_clip.CLIPInference(model, softmax_temp=3)
    assert given.model is model
    found = given(pictures(2), ["a", "b"])
    expected = eqx_clip.CLIPInference(folder, softmax_temp=3)(pictures(2), ["a", "b"])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for options in ({"pretrained": False}, {"pretrained": "tag"}, {"dtype": "bfloat16"}):
        with pytest.raises(ValueError, match="A model is taken as it is: leave out `pretrained`"):
            eqx_clip.CLIPInference(model, **options)


def test_open_files_and_buffers_are_images(clip, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0]).save(path)
    encoded = path.read_bytes()
    expected = clip(path, ["a", "b"])[0]
    for form in (io.BytesIO(encoded), bytearray(encoded), memoryview(encoded)):
        np.testing.assert_array_equal(clip(form, ["a", "b"])[0], expected)
        np.testing.assert_array_equal(clip([form], ["a", "b"])[0], expected)


def test_probabilities_are_those_of_the_formula(clip):
    images, texts = pictures(5), ["a", "b", "c"]
    image_features = jnp.asarray(eqx_clip.embed_images(clip.model, images, progress=False))
    text_features = eqx_clip.embed_texts(clip.model, texts, progress=False)
    logits = jnp.exp(clip.model.logit_scale) * (image_features @ text_features.T)
    per_image, per_text = clip(images, texts)
    assert per_image.dtype == per_text.dtype == jnp.float32
    assert isinstance(per_image, jax.Array) and isinstance(per_text, jax.Array)
    np.testing.assert_allclose(per_image, jax.nn.softmax(logits, axis=1), rtol=1e-5)
    np.testing.assert_allclose(per_text, jax.nn.softmax(logits.T, axis=1), rtol=1e-5)


def test_calls_of_any_size_compile_no_more_than_the_sizes_of_the_towers(monkeypatch):
    compiled, sizes, rng = [], set(), np.random.default_rng(0)

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def noting(encode):
        def encode_and_note(model, batch):
            sizes.add(batch.shape)
            return encode(model, batch)

        return encode_and_note

    for name in ("_encode_images", "_encode_texts"):
        monkeypatch.setattr(embedding, name, noting(getattr(embedding, name)))
    clips = [eqx_clip.CLIPInference(quick_model(), softmax_temp=t) for t in ("learned", 9, None)]
    images = pictures(70)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for i in range(200):
            chosen = [images[j] for j in rng.integers(0, 70, rng.integers(1, 70))]
            names = [f"{j}" for j in range(rng.integers(1, 70))]
            clips[i % 3](chosen[: 1 + i // 3], names)
            eqx_clip.zero_shot_classifier(
                clips[0].model, names, ["{}", "a {}", "the {}"][: 1 + i % 3]
            )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert 2 <= len(compiled) <= len(sizes) < 20
