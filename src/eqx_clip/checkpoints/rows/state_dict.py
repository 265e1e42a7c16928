"""The strict interpreter of name tables: a model from another format's tensors, and back."""

import mmap
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, Sharding
from jaxtyping import DTypeLike, PyTree

from ..._checks import short_repr
from ...sharding import shardings
from .row import Entry, Row, Table


Placement = jax.Device | Sharding | Mesh
TreeT = TypeVar("TreeT")


@runtime_checkable
class Shaped(Protocol):
    """Tensors whose shapes may be known before they are read."""

    def shape(self, key: str) -> tuple[int, ...] | None: ...


def entries(model: PyTree, table: Table) -> Iterator[Entry]:
    """Every leaf of `model`, in the order of `jax.tree.leaves`, with its row of `table`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        ours = jax.tree_util.keystr(path, simple=True, separator=".")
        if ours not in table:
            raise ValueError(
                f"This format has no tensor for the leaf {ours!r}, so this model has no form in "
                "it. `eqx.tree_serialise_leaves(path, model)` writes any model."
            )
        yield Entry(ours, leaf, table[ours])


def tensors_of(model: PyTree, table: Table) -> dict[str, np.ndarray]:
    """`model` as the tensors that `table` names: NumPy arrays, floats in their own types.

    They may share memory with the model. Integers become int64, as torch counts. `ValueError` for a
    leaf that the other format does not have and that is not zero.
    """
    tensors = {}
    for entry in entries(model, table):
        array = np.asarray(entry.leaf)
        if not entry.row.tensors and array.any():
            raise ValueError(
                f"The leaf {entry.path!r} has no form in this format, and is not zero. "
                "`eqx.tree_serialise_leaves(path, model)` writes any model."
            )
        if np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.int64)
        for layer in range(entry.layers):
            views = entry.views(array, layer)
            for name, view in zip(entry.row.names(layer), views, strict=True):
                tensors[name] = _tensor(entry.row, view, tensors.get(name))
    return tensors


def _tensor(row: Row, view: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """The tensor of a view, which may be a part of one that is `given`."""
    if row.part is None:
        return np.asarray(view, order="C")  # safetensors writes the memory as it lies
    if given is None:
        given = np.zeros(row.whole(view.shape), view.dtype)
    tensor = given.astype(jnp.promote_types(given.dtype, view.dtype), copy=False)
    row.within(tensor)[...] = view
    return tensor


def fill(
    skeleton: TreeT,
    table: Table,
    tensors: Mapping[str, Any],
    dtype: DTypeLike | None = None,
    placement: Placement | None = None,
) -> TreeT:
    """`skeleton`, a model of `jax.ShapeDtypeStruct`s, filled with the tensors of `table`.

    Strict both ways: raises `ValueError` for a missing tensor, for one that is left over, for one
    of another shape and for one of another kind of numbers; of a file's names and shapes before any
    tensor is read. Of a leaf each tensor is read once, and copied once. `dtype`: of every leaf of
    floats; None keeps that of the tensors, of those of a leaf the one that holds all.
    `placement`: where the leaves go, of a mesh as `sharding.shardings` says.
    """
    rows = check(skeleton, table, tensors)
    places: list[Any] = [placement] * len(rows)
    if isinstance(placement, Mesh):
        places = jax.tree.leaves(shardings(skeleton, placement))
    # The largest first: a leaf is in memory twice on its way, which costs least while there is
    # little else.
    leaves = {
        i: _placed(_fill_leaf(rows[i], tensors, dtype), places[i], rows[i].path)
        for i in sorted(range(len(rows)), key=lambda i: -rows[i].leaf.size)
    }
    return jax.tree.unflatten(jax.tree.structure(skeleton), [leaves[i] for i in range(len(rows))])


def check(skeleton: PyTree, table: Table, tensors: Mapping[str, Any]) -> list[Entry]:
    """The leaves with their rows, after names and shapes, as far as they are known, are compared.

    Raises `ValueError` as `fill` does.
    """
    rows = list(entries(skeleton, table))
    _check_names(rows, tensors)
    _check_shapes(rows, tensors)
    return rows


def _placed(leaf: np.ndarray, where: Any, path: str) -> Array:
    if isinstance(where, Sharding) and not where.is_fully_addressable:
        return jax.make_array_from_callback(leaf.shape, where, lambda at: leaf[at])
    try:
        return jax.device_put(leaf, where)
    except ValueError as error:
        raise ValueError(
            f"{path!r}, an array of shape {leaf.shape}, cannot be placed as {where}: {error} A "
            "mesh, `device=eqx_clip.sharding.make_mesh()`, places each array as it divides."
        ) from error


def _fill_leaf(entry: Entry, tensors: Mapping[str, Any], dtype: DTypeLike | None) -> np.ndarray:
    integers = jnp.issubdtype(entry.leaf.dtype, jnp.integer)
    if integers or not entry.row.tensors:
        dtype = entry.leaf.dtype
    leaf = None if dtype is None else _new_pages(entry.leaf.shape, np.dtype(dtype))
    for layer in range(entry.layers):
        for part, name in enumerate(entry.row.names(layer)):
            tensor = entry.row.within(read_tensor(tensors, name, integers=integers))
            if leaf is None:
                leaf = _new_pages(entry.leaf.shape, np.dtype(tensor.dtype))
            elif dtype is None:
                leaf = leaf.astype(jnp.promote_types(leaf.dtype, tensor.dtype), copy=False)
            view = entry.views(leaf, layer)[part]
            check_shape(name, tensor.shape, view.shape)
            view[...] = tensor
    assert leaf is not None
    return leaf


def _new_pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros from the start of a page on, which XLA takes over on a CPU without a copy.

    NumPy's own asks for huge pages, for which some machines look several seconds. Linux gives all
    pages at once, which takes less than one at a time as they are written.
    """
    private = {}
    if os.name == "posix":
        at_once = getattr(mmap, "MAP_POPULATE", 0)
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | at_once}
    size = max(1, int(np.prod(shape, dtype=np.int64))) * dtype.itemsize
    return np.frombuffer(mmap.mmap(-1, size, **private), dtype).reshape(shape)


def read_tensor(tensors: Mapping[str, Any], key: str, *, integers: bool = False) -> np.ndarray:
    """The tensor as a NumPy array of floats, or of integers. `ValueError` for anything else."""
    tensor = tensors[key]
    try:
        tensor = np.asarray(tensor)
    except (TypeError, RuntimeError, ValueError) as error:  # of whatever library made the tensor
        raise ValueError(
            f"Tensor {key!r} cannot be read as a NumPy array: {error} Of a torch tensor: "
            "`tensor.detach().float().numpy()`."
        ) from error
    if not jnp.issubdtype(tensor.dtype, jnp.integer if integers else jnp.floating):
        kind = "integers" if integers else "floats"
        raise ValueError(f"Tensor {key!r} must be of {kind}; it is of {tensor.dtype}.")
    return tensor


def _check_names(rows: list[Entry], tensors: Mapping[str, Any]) -> None:
    count = sum(row.count for row in rows)
    if count > 10_000 + 100 * len(tensors):  # before that many names are made
        raise ValueError(
            f"The state dict does not fit: it has {len(tensors):,} tensors, a model of this "
            f"configuration {count:,}. Weights and configuration do not belong together."
        )
    expected, given = {key for row in rows for key in row.tensors}, set(tensors)
    missing, unused = sorted(expected - given), sorted(given - expected)
    if not missing and not unused:
        return
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing, e.g. {_first(missing)}")
    if unused:
        problems.append(f"{len(unused)} tensors belong nowhere, e.g. {_first(unused)}")
    raise MisfitError(
        f"The state dict does not fit: {'; '.join(problems)}.", tuple(given), tuple(missing)
    )


class MisfitError(ValueError):
    """Tensors of other names than a configuration's: `names` were given, `missing` were not."""

    def __init__(self, message: str, names: tuple[str, ...], missing: tuple[str, ...]):
        super().__init__(message)
        self.names, self.missing = names, missing


def _first(keys: list[str]) -> str:
    return ", ".join(short_repr(key) for key in keys[:3])


def _check_shapes(rows: list[Entry], tensors: Mapping[str, Any]) -> None:
    """Compares the shapes that are known before the tensors are read."""
    if isinstance(tensors, Shaped):
        for row in rows:
            for key, expected in row.shapes.items():
                shape = tensors.shape(key)
                check_shape(key, expected if shape is None else shape, expected)


def check_shape(key: str, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if given != expected:
        raise ValueError(
            f"Tensor {key!r} must have shape {expected} in this configuration; it has {given}. "
            "Weights and configuration do not belong together."
        )
