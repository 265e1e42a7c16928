"""What a training step takes and gives."""

from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Int32

from .._clip import CLIP


ModelT = TypeVar("ModelT", bound=CLIP)


class TrainState(eqx.Module, Generic[ModelT]):
    """A model, its optimizer's state, and the number of steps taken."""

    model: ModelT
    opt_state: optax.OptState
    step: Int32[Array, ""]


def init_state(model: ModelT, optimizer: optax.GradientTransformation) -> TrainState[ModelT]:
    """The state before the first step. It holds copies: `model` outlives donated steps."""
    model = jax.tree.map(jnp.copy, model)
    return TrainState(
        model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)), jnp.zeros((), jnp.int32)
    )
