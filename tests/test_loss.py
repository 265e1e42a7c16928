import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqx_clip


def unit_rows(shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_matched_pairs_cost_nothing_and_equal_pairs_cost_chance():
    images = np.eye(8, dtype=np.float32)
    assert eqx_clip.clip_loss(images, images, 100.0) < 1e-6
    same = np.ones((8, 4), np.float32) / 2
    assert eqx_clip.clip_loss(same, same, 100.0) == pytest.approx(math.log(8), abs=1e-5)


def test_loss_is_symmetric_in_images_and_texts():
    images, texts = unit_rows((6, 5), 1), unit_rows((6, 5), 2)
    forth, back = eqx_clip.clip_loss(images, texts, 9.0), eqx_clip.clip_loss(texts, images, 9.0)
    assert forth == pytest.approx(float(back), rel=1e-6)


def test_bfloat16_features_are_summed_in_float32():
    images, texts = unit_rows((64, 128), 1), unit_rows((64, 128), 2)
    low = eqx_clip.clip_loss(
        jnp.asarray(images, jnp.bfloat16), jnp.asarray(texts, jnp.bfloat16), 50.0
    )
    assert low.dtype == jnp.float32
    assert low == pytest.approx(float(eqx_clip.clip_loss(images, texts, 50.0)), rel=2e-2)


def test_unequal_batches_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"got \(6, 5\), \(4, 5\) and \(\)"):
        eqx_clip.clip_loss(unit_rows((6, 5)), unit_rows((4, 5)), 1.0)
    with pytest.raises(ValueError, match=r"got \(6, 5\), \(6, 5\) and \(1,\)"):
        eqx_clip.clip_loss(unit_rows((6, 5)), unit_rows((6, 5)), np.ones(1))


def test_numbers_of_numpy_are_numbers():
    features = unit_rows((6, 5))
    scales = [9.0, 9, np.float32(9), np.exp(np.log(np.float64(9))), jnp.asarray(9.0)]
    losses = [float(eqx_clip.clip_loss(features, features, scale)) for scale in scales]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


def test_loss_has_gradients_for_all_three():
    grads = jax.grad(eqx_clip.clip_loss, argnums=(0, 1, 2))(
        jnp.asarray(unit_rows((6, 5), 1)), jnp.asarray(unit_rows((6, 5), 2)), jnp.asarray(9.0)
    )
    assert all(jnp.isfinite(grad).all() and jnp.abs(grad).max() > 0 for grad in grads)
