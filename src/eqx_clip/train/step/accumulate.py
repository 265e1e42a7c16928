"""Gradients of a batch in parts, with the whole batch's negatives, in the memory of one part.

Features of all parts first, without what a gradient needs; then the loss's gradient by the
features; then part after part again, its features' gradient pulled back to the parameters. The sum
is the gradient of the whole batch, not an approximation: GradCache (Gao et al. 2021,
arXiv:2101.06983).
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, PyTree

from ...sharding import AXES


ModelT = TypeVar("ModelT", bound=eqx.Module)
ChunkT = TypeVar("ChunkT")
Features = tuple[Float[Array, "batch embed"], Float[Array, "batch embed"]]


def value_and_grad_in_parts(
    features: Callable[[ModelT, ChunkT], Features],
    loss: Callable[[ModelT, Features], Float[Array, ""]],
    model: ModelT,
    batch: ChunkT,
    parts: int,
    mesh: Mesh | None,
    place: Callable[[PyTree], PyTree],
) -> tuple[Float[Array, ""], ModelT]:
    """The value of `loss(model, features(model, batch))` and its gradient by the model's arrays.

    - `batch`: arrays with a leading axis that mesh and `parts` divide. `features` may not mix rows.
    - `place`: puts the running sum of gradients where the parameters are.
    """
    chunks = jax.tree.map(functools.partial(_split, parts=parts, mesh=mesh), batch)
    _, cached = jax.lax.scan(lambda _, chunk: (None, features(model, chunk)), None, chunks)
    whole = jax.tree.map(functools.partial(_merge, mesh=mesh), cached)

    (value, (grads, whole_grads)) = _value_and_grads(loss, model, whole)
    chunk_grads = jax.tree.map(functools.partial(_split, parts=parts, mesh=mesh), whole_grads)

    def pull(total: ModelT, chunk: tuple[ChunkT, Features]) -> tuple[ModelT, None]:
        inputs, cotangents = chunk
        _, pull_back = eqx.filter_vjp(lambda model: features(model, inputs), model)
        (grads,) = pull_back(cotangents)
        return place(jax.tree.map(jnp.add, total, grads)), None

    grads, _ = jax.lax.scan(pull, place(grads), (chunks, chunk_grads))
    return value, grads


def _value_and_grads(
    loss: Callable[[ModelT, Features], Float[Array, ""]], model: ModelT, features: Features
) -> tuple[Array, tuple[ModelT, Features]]:
    def joint_loss(both: tuple[ModelT, Features]) -> Array:
        return loss(*both)

    return eqx.filter_value_and_grad(joint_loss)((model, features))


def _split(x: Array, parts: int, mesh: Mesh | None) -> Array:
    """(batch, ...) to (parts, batch / parts, ...), of which every device keeps its own rows."""
    devices = 1 if mesh is None else mesh.size
    by_device = x.reshape(devices, parts, len(x) // devices // parts, *x.shape[1:])
    chunks = by_device.swapaxes(0, 1).reshape(parts, len(x) // parts, *x.shape[1:])
    if mesh is None:
        return chunks
    return jax.lax.with_sharding_constraint(chunks, NamedSharding(mesh, P(None, AXES)))


def _merge(chunks: Array, mesh: Mesh | None) -> Array:
    """What `_split` took apart."""
    devices = 1 if mesh is None else mesh.size
    parts, rows, *shape = chunks.shape
    by_device = chunks.reshape(parts, devices, rows // devices, *shape)
    x = by_device.swapaxes(0, 1).reshape(parts * rows, *shape)
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(AXES)))
