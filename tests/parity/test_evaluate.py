"""Retrieval, validation loss and zero-shot accuracy against `open_clip_train`."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_VIT, images_for
from models import oracle_model, state_dict
from open_clip_train import train as openclip_train
from oracle import torch

import eqx_clip
from eqx_clip import train


def unit_features(count, seed, dtype):
    features = np.random.default_rng(seed).standard_normal((2, count, 24))
    features[1] += 0.5 * features[0]  # so that some are found
    return (features / np.linalg.norm(features, axis=-1, keepdims=True)).astype(dtype)


def openclip_metrics(image, text):
    return openclip_train.get_clip_metrics(torch.tensor(image), torch.tensor(text), 16.0)


@pytest.mark.parametrize("count", [1, 7, 200])
@pytest.mark.parametrize("chunk_size", [1, 64, 1000])
def test_retrieval_in_float64_equals_openclips_exactly(count, chunk_size, x64):
    image, text = unit_features(count, count, np.float64)
    ours = train.retrieval_metrics(image, text, chunk_size=chunk_size)
    assert ours == openclip_metrics(image, text)
    assert count < 200 or 0.05 < ours["image_to_text_R@1"] < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_in_float32_equals_openclips_exactly(seed):
    image, text = unit_features(150, seed, np.float32)
    assert train.retrieval_metrics(image, text) == openclip_metrics(image, text)


@pytest.mark.parametrize("seed", range(3))
def test_ties_are_ranked_as_openclip_does_with_a_stable_sort(seed, monkeypatch):
    # Small integers: products are exact, and most cosines are equal to others.
    image, text = np.random.default_rng(seed).integers(-2, 3, (2, 100, 4)).astype(np.float32)
    stable = functools.partial(torch.argsort, stable=True)
    monkeypatch.setattr(openclip_train.torch, "argsort", stable)
    assert train.retrieval_metrics(image, text, chunk_size=32) == openclip_metrics(image, text)


def openclip_validation(model, batches):
    """The loop of `open_clip_train.train.evaluate`."""
    total, count, features = 0.0, 0, []
    for batch in batches:
        images = batch["image"].astype(np.float64)
        with torch.inference_mode():
            image, text, scale = model(torch.tensor(images), torch.tensor(batch["tokens"]).long())
            logits = scale * image @ text.t()
            labels = torch.arange(len(image))
            cross_entropy = torch.nn.functional.cross_entropy
            loss = (cross_entropy(logits, labels) + cross_entropy(logits.t(), labels)) / 2
        total, count = total + loss.item() * len(image), count + len(image)
        features.append((image, text))
    images, texts = (torch.cat(parts) for parts in zip(*features, strict=True))
    return total / count, openclip_train.get_clip_metrics(images, texts, scale)


def test_validation_with_a_partial_last_batch_equals_openclips(x64):
    oracle = oracle_model(TINY_VIT, dtype=torch.float64).eval()
    model = eqx_clip.from_state_dict(TINY_VIT, state_dict(oracle))
    images = images_for(model, 11)
    tokens = model.tokenize([f"thing {i}" for i in range(11)])
    batches = [
        {"image": images[i : i + 4], "tokens": tokens[i : i + 4], "index": np.arange(i, i + 4)}
        for i in (0, 4, 8)
    ]

    @eqx.filter_jit
    def eval_step(model, batch):
        images = jnp.asarray(batch["image"], jnp.float64)
        return jax.vmap(model.encode_image)(images), jax.vmap(model.encode_text)(batch["tokens"])

    ours = train.validate(eval_step, model, batches, batch_size=4)
    loss, metrics = openclip_validation(oracle, batches)
    assert abs(ours.pop("loss") - loss) < 1e-10
    assert ours.pop("num_samples") == 11
    assert ours == metrics


def test_zero_shot_accuracy_equals_openclips():
    oracle = oracle_model(TINY_VIT).eval()
    model = eqx_clip.from_state_dict(TINY_VIT, state_dict(oracle))
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (40, 48, 32, 3), dtype=np.uint8))
    labels = rng.integers(0, 9, 40)
    classifier = eqx_clip.zero_shot_classifier(model, map(str, range(9)), ["{}", "a {}"])
    ours = train.zero_shot_accuracy(model, pictures, labels, classifier, progress=False)
    pixels = torch.tensor(np.stack([model.preprocess(picture) for picture in pictures]))
    with torch.inference_mode():
        logits = 100 * oracle.encode_image(pixels, normalize=True) @ torch.tensor(classifier).T
    # As `open_clip_train.zero_shot.accuracy` has it, which itself fails with NumPy 2.4.
    right = logits.topk(5, 1, True, True)[1] == torch.tensor(labels)[:, None]
    assert ours == {f"top{k}": right[:, :k].sum().item() / 40 for k in (1, 5)}
    assert 0 < ours["top1"] < ours["top5"] < 1
