"""Where arrays lie on a mesh of devices: parameters by rules on their paths, batches by rows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    Sharding,
    SingleDeviceSharding,
)
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from ._checks import as_count
from ._types import AnyArray, Count
from .nn.stack import Stack


AXES = ("data", "fsdp")  # a batch is spread over both, parameters over the second

Rule = tuple[str, P]
T = TypeVar("T")


def make_mesh(
    data: Count | None = None, fsdp: Count = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of `data` times `fsdp` devices, with these two axes.

    A batch is spread over all of them. Parameters and optimizer state are copied along "data" and
    spread along "fsdp" (fully sharded data parallelism, arXiv:1910.02054), each layer's gathered
    when it is computed.

    **Arguments:**

    - `data`: None takes what `fsdp` leaves of the devices.
    - `devices`: by default all, of all processes.

    Raises `ValueError` for a mesh larger than the devices, for one that takes more of some process
    than of another, since each gives the same part of a batch, and for numbers that are not
    positive.
    """
    devices = list(jax.devices() if devices is None else devices)
    if data is None and fsdp >= 1:
        if len(devices) % fsdp:
            raise ValueError(
                f"`fsdp={fsdp}` does not divide the {len(devices)} devices: choose one that does, "
                "or say `data=`, too."
            )
        data = len(devices) // fsdp
    if data is None or data < 1 or fsdp < 1:
        raise ValueError(f"`data={data}` and `fsdp={fsdp}` must be at least 1.")
    count = data * fsdp
    if count > len(devices):
        raise ValueError(
            f"A mesh of data={data} x fsdp={fsdp} needs {count} devices; there are {len(devices)}."
        )
    taken = dict.fromkeys((device.process_index for device in devices), 0)
    for device in devices[:count]:
        taken[device.process_index] += 1
    if len(set(taken.values())) > 1:
        numbers = ", ".join(map(str, taken.values()))
        raise ValueError(
            f"A mesh of data={data} x fsdp={fsdp} takes {numbers} devices of the processes, in "
            f"order: it must take as many of each. There are {len(devices)}: take all, and start "
            "processes with as many devices each."
        )
    grid = np.asarray(devices[:count], dtype=object).reshape(data, fsdp)
    # A step leaves it to XLA where what it computes lies.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def shardings(tree: PyTree, mesh: Mesh, rules: Sequence[Rule] = ()) -> PyTree[NamedSharding]:
    """Where each array of a model, an optimizer's state or a whole train state goes.

    By default the largest axis that the "fsdp" axis of the mesh divides is spread over it, never
    the depth axis of a `Stack`, which is scanned; what has no such axis is copied to every device.

    **Arguments:**

    - `tree`: arrays, or `jax.ShapeDtypeStruct`s.
    - `rules`: pairs of a regular expression and a `PartitionSpec`. The first whose expression is
      found in a leaf's path, such as `"model.text.token_embedding"`, decides; the default decides
      for all others.

    Raises `ValueError` for a mesh that has no axis "fsdp".
    """
    if "fsdp" not in mesh.shape:
        raise ValueError(
            f"Expected a mesh of `make_mesh`, with axes 'data' and 'fsdp'; got {mesh.axis_names}."
        )
    compiled = [(re.compile(pattern), spec) for pattern, spec in rules]

    def place(path: tuple, leaf: Any, depth_axes: int) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for pattern, spec in compiled:
            if pattern.search(name):
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, _largest_axis(np.shape(leaf), depth_axes, mesh.shape["fsdp"]))

    def place_node(path: tuple, node: Any) -> PyTree[NamedSharding]:
        if not isinstance(node, Stack):
            return place(path, node, 0)
        return jax.tree_util.tree_map_with_path(
            lambda inner, leaf: place((*path, *inner), leaf, 1), node
        )

    return jax.tree_util.tree_map_with_path(
        place_node, tree, is_leaf=lambda node: isinstance(node, Stack)
    )


def _largest_axis(shape: tuple[int, ...], first: int, parts: int) -> P:
    axes = [axis for axis in range(first, len(shape)) if shape[axis] % parts == 0]
    if parts == 1 or not axes:
        return P()
    largest = max(axes, key=lambda axis: shape[axis])
    return P(*(None,) * largest, "fsdp")


def place(tree: T, mesh: Mesh, rules: Sequence[Rule] = ()) -> T:
    """Copies of a tree's arrays where `shardings` puts them; every process must have them equal."""
    return jax.tree.map(_put, tree, shardings(tree, mesh, rules))


def _put(leaf: Any, where: NamedSharding) -> Array:
    # Where some of the devices are other processes', `device_put` refuses typed keys, and compiles
    # a program for each shape to see whether the processes agree.
    if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = _put(jax.random.key_data(leaf), where)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    local = not isinstance(leaf, Array) or leaf.is_fully_addressable
    if local and not where.is_fully_addressable:
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, where, lambda at: np.array(value[at]))
    # A part that stays on its device would be the same memory, which a donated step overwrites.
    return jax.device_put(jnp.copy(leaf), where)


def constrain(tree: T, mesh: Mesh, rules: Sequence[Rule] = ()) -> T:
    """Inside `jax.jit`: the same arrays, placed by `shardings`."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    arrays = jax.lax.with_sharding_constraint(arrays, shardings(arrays, mesh, rules))
    return eqx.combine(arrays, static)


def rows(mesh: Mesh) -> NamedSharding:
    """Where a batch goes: its first axis is spread over all devices."""
    return NamedSharding(mesh, P(AXES))


def rows_beside(model: PyTree) -> Sharding | None:
    """Where a batch for a model goes: spread over the devices that hold the model.

    None, which leaves it to JAX, where some of them are another process's.
    """
    arrays = (leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, Array))
    places = [array.sharding for array in arrays if array.is_fully_addressable]
    for place in sorted(places, key=lambda place: -place.num_devices):
        if isinstance(place, NamedSharding):
            return NamedSharding(place.mesh, P(place.mesh.axis_names))
        if isinstance(place, SingleDeviceSharding):
            return place
    return None


def copies(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The whole of an array on every device."""
    return NamedSharding(mesh, P())


def global_batch(batch: Mapping[str, AnyArray], mesh: Mesh) -> dict[str, Array]:
    """A global batch of the rows that each process holds: arrays spread over all devices.

    Raises `ValueError` if this process's devices do not divide its rows. All processes must bring
    equally many rows: `train.check_same` asks them.
    """
    local = len(mesh.local_devices)
    for name, value in batch.items():
        if len(value) % local:
            raise ValueError(
                f"The {len(value)} rows of {name!r} cannot be spread over the {local} devices of "
                "this process: choose a global batch size that all devices divide."
            )
    sharding = rows(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


def sent(batch: Mapping[str, AnyArray], mesh: Mesh | None) -> dict[str, AnyArray]:
    """A batch whose NumPy arrays are on the devices, spread over the mesh if there is one.

    Sent here, for users who forbid JAX to do so unasked. What the mesh does not divide, and what
    goes to other processes, stays as it is.
    """
    where = None if mesh is None else rows(mesh)
    if where is not None and not where.is_fully_addressable:
        return dict(batch)

    def put(x: AnyArray) -> AnyArray:
        fits = isinstance(x, np.ndarray) and (mesh is None or len(x) % mesh.size == 0)
        return jax.device_put(x, where) if fits else x

    return {name: put(x) for name, x in batch.items()}


def check_mesh(mesh: Mesh) -> None:
    """`ValueError` for a mesh that a step cannot place its arrays on."""
    if set(mesh.axis_names) != set(AXES) or set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            "A step takes a mesh of `eqx_clip.sharding.make_mesh`, with axes 'data' and 'fsdp' of "
            f"the kind Auto; got {mesh}. (`jax.make_mesh` makes Explicit axes unless told.)"
        )


def check_batch_size(batch_size: Count, mesh: Mesh, accumulate: Count = 1) -> None:
    """`ValueError` if the mesh, or the parts of a batch on each device, do not divide it."""
    parts = mesh.size * as_count("accumulate", accumulate)
    if batch_size % parts:
        of_parts = f" times {accumulate} parts" if accumulate > 1 else ""
        raise ValueError(
            f"A global batch of {batch_size} cannot be spread evenly over a mesh of "
            f"data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']} devices{of_parts}: choose a "
            f"multiple of {parts}, such as {max(parts, batch_size // parts * parts)}."
        )
