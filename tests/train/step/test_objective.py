"""Objectives: those of the library by name, and one's own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import images_for, random_model, smallest_configs

from eqx_clip import clip_loss, sharding, train


@dataclasses.dataclass(frozen=True)
class Weighted:
    """The softmax loss, times a number of one's own."""

    weight: float
    fields: tuple[str, ...] = ("image", "tokens")

    def check(self, model, batch_size):
        if batch_size < 3:
            raise ValueError("Expected three pairs.")

    def scalars(self, model):
        return (jnp.exp(model.logit_scale),)

    def loss(self, *arguments, axis_name=None):
        return self.weight * clip_loss(*arguments, axis_name=axis_name)


@pytest.fixture(scope="module")
def model():
    return random_model(smallest_configs()["vit"])


def step_with(loss, model, batch_size=4, mesh=None):
    tokens = np.random.default_rng(0).integers(1, 64, (batch_size, 8), np.int32)
    optimizer = train.adamw(1e-3)
    state = train.init_state(model, optimizer, mesh)
    batch = {"image": images_for(model, batch_size), "tokens": tokens}
    return train.make_train_step(optimizer, mesh, loss=loss)(state, batch)[1]


def test_ones_own_objective_is_trained_on_one_device_and_on_a_mesh(model):
    expected = step_with("clip", model)
    for mesh in (None, sharding.make_mesh(4, 1)):
        metrics = step_with(Weighted(3.0), model, mesh=mesh)
        for name in ("loss", "grad_norm"):
            assert float(metrics[name]) == pytest.approx(3 * float(expected[name]), rel=1e-5)


def test_an_objective_checks_model_and_batch(model):
    with pytest.raises(ValueError, match="Expected three pairs"):
        step_with(Weighted(1.0), model, batch_size=2)
    with pytest.raises(ValueError, match="a model with a bias"):
        step_with("siglip", model)


@pytest.mark.parametrize("loss", ["sigmoid", None, 3, clip_loss])
def test_what_is_no_objective_is_refused(loss):
    with pytest.raises(ValueError, match="`loss` must be 'clip', 'siglip' or an objective; got "):
        train.make_train_step(train.adamw(1e-3), loss=loss)
