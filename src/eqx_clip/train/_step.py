"""One step of training, a pure function of state and batch."""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from .._clip import CLIP
from .._loss import clip_loss
from .._types import AnyArray
from ._state import TrainState


MAX_LOGIT_SCALE = math.log(100)  # the paper's bound: cosines are multiplied by at most 100

Batch = Mapping[str, AnyArray]
Metrics = dict[str, Float[Array, ""]]
ModelT = TypeVar("ModelT", bound=CLIP)


def make_train_step(
    optimizer: optax.GradientTransformation,
) -> Callable[[TrainState[ModelT], Batch], tuple[TrainState[ModelT], Metrics]]:
    """A compiled function of a state and a batch that gives the next state and metrics.

    The batch holds `"image"`, uint8 pixels (batch, 3, height, width) as `Preprocess.pixels` and
    `Augment.pixels` give them, or floats that are normalised already, and `"tokens"`, integers
    (batch, context). Metrics, scalars of this batch before the update: `"loss"`,
    `"logit_scale"` (what multiplies the cosines), `"grad_norm"`. The log of the scale is kept
    between 0 and log(100), as OpenCLIP does.

    The old state is donated: its memory is used for the new one. Go on with what is returned.
    """

    @eqx.filter_jit(donate="all-except-first")
    def step(batch: Batch, state: TrainState[ModelT]) -> tuple[TrainState[ModelT], Metrics]:
        loss, grads = eqx.filter_value_and_grad(_loss)(state.model, batch)
        params = eqx.filter(state.model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        model = _clamp(eqx.apply_updates(state.model, updates))
        metrics = {
            "loss": loss,
            "logit_scale": jnp.exp(state.model.logit_scale),
            "grad_norm": optax.tree.norm(grads),
        }
        return TrainState(model, opt_state, state.step + 1), metrics

    return lambda state, batch: step(batch, state)


def _loss(model: CLIP, batch: Batch) -> Float[Array, ""]:
    images = jnp.asarray(batch["image"])
    if images.dtype == jnp.uint8:
        images = model.preprocess.normalize(images)
    image_features = jax.vmap(model.encode_image)(images)
    text_features = jax.vmap(model.encode_text)(batch["tokens"])
    return clip_loss(image_features, text_features, jnp.exp(model.logit_scale))


def _clamp(model: ModelT) -> ModelT:
    scale = jnp.clip(model.logit_scale, 0, MAX_LOGIT_SCALE)
    return eqx.tree_at(lambda model: model.logit_scale, model, scale)
