"""What a training step takes and gives."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Int32, PRNGKeyArray

from ..._clip import CLIP
from ...sharding import Rule, place, shardings
from .precision import LossScale


ModelT = TypeVar("ModelT", bound=CLIP)


class TrainState(eqx.Module, Generic[ModelT]):
    """A model, its optimizer's state, and the number of steps taken, which is also the data's.

    None unless asked for: `ema`, the moving average of the parameters; `key`, from which each
    step's and each image's randomness follows; `loss_scale`, for float16.
    """

    model: ModelT
    opt_state: optax.OptState
    step: Int32[Array, ""]
    ema: ModelT | None = None
    key: PRNGKeyArray | None = None
    loss_scale: LossScale | None = None

    @property
    def eval_model(self) -> ModelT:
        """What is evaluated and exported: the moving average if there is one, else the model."""
        return self.model if self.ema is None else self.ema


def init_state(
    model: ModelT,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    ema: bool = False,
    key: PRNGKeyArray | None = None,
    scale_loss: bool = False,
    rules: Sequence[Rule] = (),
) -> TrainState[ModelT]:
    """The state before the first step. It holds copies: `model` outlives donated steps.

    - `mesh`: spreads model and optimizer over it, by `sharding.shardings(state, mesh, rules)`.
    - `ema`: keeps a moving average of the parameters, which begins as the model itself.
    - `key`: for what is random in a step, such as patch dropout.
    - `scale_loss`: for float16, whose small gradients need it.
    """

    def copied(tree: Any) -> Any:
        if mesh is None:
            return jax.tree.map(jnp.copy, tree)
        return place(tree, mesh, rules)

    def make_opt_state(params):
        return optimizer.init(params)

    model = copied(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    if mesh is None:
        opt_state = make_opt_state(params)
    else:
        where = shardings(jax.eval_shape(make_opt_state, params), mesh, rules)
        opt_state = jax.jit(make_opt_state, out_shardings=where)(params)
    scale = LossScale() if scale_loss else None
    step, key, loss_scale = copied((jnp.zeros((), jnp.int32), key, scale))
    average = copied(model) if ema else None
    return TrainState(model, opt_state, step, average, key, loss_scale)
