"""The gradient of a batch's loss, at once or in parts, on one device or on a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from ..._clip import CLIP
from ...sharding import AXES, check_batch_size, rows
from .accumulate import value_and_grad_in_parts
from .forward import Batch, Features, Forward, row_keys
from .objective import Objective
from .state import TrainState


ModelT = TypeVar("ModelT", bound=CLIP)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Value and gradient of a batch's loss, in parts or at once."""

    forward: Forward
    loss: Callable[[CLIP, Features], Array]
    parts: int

    def __call__(
        self, state: TrainState[ModelT], batch: Batch, place: Callable[[PyTree], PyTree]
    ) -> tuple[Array, ModelT]:
        mesh, scale = self.forward.mesh, state.loss_scale
        size = len(batch["tokens"])
        _check_parts(size, self.parts, mesh)
        key = None if state.key is None else jr.fold_in(state.key, state.step)
        keys = (
            row_keys(key, jnp.arange(size, dtype=jnp.int32)) if self.forward.patch_dropout else None
        )
        rows = on_mesh(batch, mesh), keys

        def features(model: CLIP, rows: tuple[Batch, Any]) -> Features:
            batch, keys = rows
            # A batch in parts is computed twice, with the same keys.
            return self.forward(model, batch, None if keys is None else jr.clone(keys))

        def loss(model: CLIP, features: Features) -> Array:
            value = self.loss(model, features)
            return value if scale is None else value * scale.scale

        if self.parts == 1:
            whole = eqx.filter_value_and_grad(lambda model: loss(model, features(model, rows)))
            value, grads = whole(state.model)
        else:
            value, grads = value_and_grad_in_parts(
                features, loss, state.model, rows, self.parts, mesh, place
            )
        if scale is not None:
            value, grads = jax.tree.map(lambda x: x / scale.scale, (value, grads))
        return value, place(grads)


def loss_over(mesh: Mesh | None, objective: Objective) -> Callable[[CLIP, Features], Array]:
    def loss(model: CLIP, features: Features) -> Array:
        scalars = objective.scalars(model)
        function: Callable[..., Array] = objective.loss
        if mesh is not None and mesh.size > 1:
            function = jax.shard_map(
                functools.partial(function, axis_name=AXES),
                mesh=mesh,
                in_specs=(P(AXES), P(AXES), *(P(),) * len(scalars)),
                out_specs=P(),
            )
        return function(*features, *scalars)

    return loss


def on_mesh(batch: Batch, mesh: Mesh | None) -> Batch:
    if mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(jax.tree.map(jnp.asarray, batch), rows(mesh))


def _check_parts(size: int, parts: int, mesh: Mesh | None) -> None:
    if mesh is not None:
        check_batch_size(size, mesh, parts)
    elif size % parts:
        raise ValueError(f"`accumulate={parts}` does not divide a batch of {size}.")
