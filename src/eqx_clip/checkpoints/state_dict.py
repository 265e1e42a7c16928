"""OpenCLIP's state dicts: one strict interpreter that reads the name tables both ways."""

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, Sharding
from jaxtyping import DTypeLike

from .._checks import short_repr
from .._clip import CLIP
from ..sharding import shardings
from .files.safetensors import SafetensorsFile
from .open_clip.names import names


Placement = jax.Device | Sharding | Mesh
if TYPE_CHECKING:
    Model = CLIP
else:
    Model = Any  # a `ValueError` speaks first


class Entry(NamedTuple):
    """A leaf of a model and OpenCLIP's name of it, with `{i}` for the blocks of a stack."""

    leaf: jax.Array | jax.ShapeDtypeStruct
    name: str

    @property
    def stacked(self) -> bool:
        return "{i}" in self.name

    @property
    def depth(self) -> int:
        """How many tensors the leaf is made of."""
        return self.leaf.shape[0] if self.stacked else 1

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.name.format(i=i) for i in range(self.depth))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each."""
        return self.leaf.shape[1:] if self.stacked else self.leaf.shape


def entries(model: CLIP) -> Iterator[Entry]:
    """Every leaf of `model`, in the order of `jax.tree.leaves`, with OpenCLIP's names."""
    table = names(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        ours = jax.tree_util.keystr(path, simple=True, separator=".")
        if ours not in table:
            raise ValueError(
                f"OpenCLIP has no tensor for the leaf {ours!r}, so this model has no form in its "
                "format. `eqx.tree_serialise_leaves(path, model)` writes any model."
            )
        yield Entry(leaf, table[ours])


def check_model(model: Any) -> None:
    if not isinstance(model, CLIP):
        raise ValueError(
            f"Expected an eqx_clip.CLIP; got {type(model).__name__}. "
            "`eqx.tree_serialise_leaves(path, module)` writes any module."
        )


def to_state_dict(model: Model) -> dict[str, np.ndarray]:
    """`model` as OpenCLIP's state dict: NumPy arrays by OpenCLIP's names, dtypes kept.

    The arrays may share memory with the model's; do not write into them. Raises `ValueError` for
    what is no `CLIP`, and for towers that OpenCLIP does not know. Inverse of `from_state_dict`.
    """
    check_model(model)
    tensors = {}
    for row in entries(model):
        array = np.asarray(row.leaf, order="C")  # safetensors writes the memory as it lies
        tensors.update(zip(row.tensors, array if row.stacked else [array], strict=True))
    return tensors


ModelT = TypeVar("ModelT", bound=CLIP)


def fill(
    skeleton: ModelT,
    tensors: Mapping[str, Any],
    dtype: DTypeLike | None = None,
    placement: Placement | None = None,
) -> ModelT:
    """`skeleton`, a model of `jax.ShapeDtypeStruct`s, with the arrays of OpenCLIP's state dict.

    Strict both ways: raises `ValueError` for a missing tensor, for one that is left over, for one
    of another shape and for one that is not of floats; of a file's names and shapes before any
    tensor is read. Each tensor is read once, and copied once, into its leaf. `dtype`: of every
    leaf; None keeps that of the tensors, of those of a stack the one that holds all. `placement`:
    where the leaves go, of a mesh as `sharding.shardings` says.
    """
    rows = list(entries(skeleton))
    places: list[Any] = [placement] * len(rows)
    if isinstance(placement, Mesh):
        places = jax.tree.leaves(shardings(skeleton, placement))
    _check_names(rows, tensors)
    _check_shapes(rows, tensors)
    # The largest first: a leaf is in memory twice on its way, which costs least while there is
    # little else.
    leaves = {
        i: _placed(_fill_leaf(rows[i], tensors, dtype), places[i], rows[i].tensors[0])
        for i in sorted(range(len(rows)), key=lambda i: -rows[i].leaf.size)
    }
    return jax.tree.unflatten(jax.tree.structure(skeleton), [leaves[i] for i in range(len(rows))])


def _placed(leaf: np.ndarray, where: Any, name: str) -> Array:
    if isinstance(where, Sharding) and not where.is_fully_addressable:
        return jax.make_array_from_callback(leaf.shape, where, lambda at: leaf[at])
    try:
        return jax.device_put(leaf, where)
    except ValueError as error:
        raise ValueError(
            f"{name!r}, an array of shape {leaf.shape}, cannot be placed as {where}: {error} A "
            "mesh, `device=eqx_clip.sharding.make_mesh()`, places each array as it divides."
        ) from error


def _fill_leaf(row: Entry, tensors: Mapping[str, Any], dtype: DTypeLike | None) -> np.ndarray:
    leaf = None
    for i, key in enumerate(row.tensors):
        tensor = _read(tensors, key)
        _check_shape(key, tensor.shape, row.shape)
        if leaf is None:
            leaf = _new_pages(row.leaf.shape, np.dtype(tensor.dtype if dtype is None else dtype))
        elif dtype is None:
            leaf = leaf.astype(jnp.promote_types(leaf.dtype, tensor.dtype), copy=False)
        leaf[i if row.stacked else ...] = tensor
    assert leaf is not None  # a stack has at least one block
    return leaf


def _new_pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array at the start of a page, which XLA takes over on a CPU without a copy.

    NumPy's own asks for huge pages, for which some machines look several seconds.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **private)
    return np.frombuffer(memory, dtype).reshape(shape)


def _read(tensors: Mapping[str, Any], key: str) -> np.ndarray:
    tensor = tensors[key]
    try:
        tensor = np.asarray(tensor)
    except (TypeError, RuntimeError, ValueError) as error:  # of whatever library made the tensor
        raise ValueError(
            f"Tensor {key!r} cannot be read as a NumPy array: {error} Of a torch tensor: "
            "`tensor.detach().float().numpy()`."
        ) from error
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"Tensor {key!r} must be of floats; it is of {tensor.dtype}.")
    return tensor


def _check_names(rows: list[Entry], tensors: Mapping[str, Any]) -> None:
    count = sum(row.depth for row in rows)
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
        problems.append(f"{len(missing)} tensors are missing, e.g. {_some(missing)}")
    if unused:
        problems.append(f"{len(unused)} tensors belong nowhere, e.g. {_some(unused)}")
    hint = "Weights and configuration do not belong together."
    if any(key.startswith(("vision_model.", "text_model.")) for key in unused):
        hint = (
            "These names are those of Hugging Face transformers; take the repository's "
            "`open_clip_model.safetensors` instead."
        )
    raise ValueError(f"The state dict does not fit: {'; '.join(problems)}. {hint}")


def _some(keys: list[str]) -> str:
    return ", ".join(short_repr(key) for key in keys[:3])


def _check_shapes(rows: list[Entry], tensors: Mapping[str, Any]) -> None:
    """Compares the shapes that are known before the tensors are read."""
    if isinstance(tensors, Canonical):
        for row in rows:
            for key in row.tensors:
                shape = tensors.shape(key)
                _check_shape(key, row.shape if shape is None else shape, row.shape)


def _check_shape(key: str, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if given != expected:
        raise ValueError(
            f"Tensor {key!r} must have shape {expected} in this configuration; it has {given}. "
            "Weights and configuration do not belong together."
        )


Edit = Callable[[np.ndarray], np.ndarray]

# OpenAI's own files say sizes as tensors; OpenCLIP drops them, too.
_LEGACY = ("input_resolution", "context_length", "vocab_size")
# What torch puts around a model, or a part of one: in distributed training, and compiled.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class Canonical(Mapping[str, Any]):
    """A state dict that OpenCLIP reads, in its plain form; each tensor is read when asked for.

    Without the names of torch's wrappers (`module.`, `_orig_mod.`) and the prefix `text.` that
    OpenCLIP's `CustomTextCLIP` puts before the text tower; with scalars for one-element logit
    scales; and with `edits`, functions of small tensors by name, applied once. Raises `ValueError`
    where two tensors have one plain name.
    """

    def __init__(self, tensors: Any, edits: Mapping[str, Edit]):
        if not (isinstance(tensors, Mapping) and all(isinstance(key, str) for key in tensors)):
            raise ValueError("Expected a state dict, a mapping of arrays by OpenCLIP's names.")
        plain = {key: _plain(key) for key in tensors}
        self._tensors = tensors
        self._keys = {name: key for key, name in plain.items() if name not in _LEGACY}
        if len(self._keys) != sum(name not in _LEGACY for name in plain.values()):
            raise ValueError("The state dict has tensors twice, with and without a prefix.")
        self._edits = {"logit_scale": _scalar, "logit_bias": _scalar, **edits}
        self._edited: dict[str, np.ndarray] = {}

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor, where it is known without reading the tensor."""
        if key in self._edits:
            return self[key].shape
        tensors = self._tensors
        return tensors.shape(self._keys[key]) if isinstance(tensors, SafetensorsFile) else None

    def __getitem__(self, key: str) -> Any:
        if key not in self._edits:
            return self._tensors[self._keys[key]]
        if key not in self._edited:
            self._edited[key] = self._edits[key](_read(self._tensors, self._keys[key]))
        return self._edited[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _plain(key: str) -> str:
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    return ".".join(parts).removeprefix("text.")


def _scalar(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(()) if tensor.shape == (1,) else tensor
