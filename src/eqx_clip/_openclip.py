"""OpenCLIP's state dicts: name tables, and one strict interpreter that reads them both ways."""

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, Sharding
from jaxtyping import DTypeLike

from ._clip import CLIP
from ._convnext import ConvNeXt
from ._openclip_config import unknown_tower
from ._text import TextTransformer
from ._vision import VisionTransformer
from .sharding import shardings


# Our path to a leaf -> OpenCLIP's name of the tensor. `{i}` counts the blocks of a stack, which
# are one tensor each for OpenCLIP and one leaf for us.
_BLOCK = {
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.out.weight": "attn.out_proj.weight",
    "attn.out.bias": "attn.out_proj.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.up.weight": "mlp.c_fc.weight",
    "mlp.up.bias": "mlp.c_fc.bias",
    "mlp.down.weight": "mlp.c_proj.weight",
    "mlp.down.bias": "mlp.c_proj.bias",
}
_VISION = {
    "patch.weight": "visual.conv1.weight",
    "class_embedding": "visual.class_embedding",
    "positional_embedding": "visual.positional_embedding",
    "ln_pre.weight": "visual.ln_pre.weight",
    "ln_pre.bias": "visual.ln_pre.bias",
    **{
        f"stack.block.{ours}": f"visual.transformer.resblocks.{{i}}.{theirs}"
        for ours, theirs in _BLOCK.items()
    },
    "ln_post.weight": "visual.ln_post.weight",
    "ln_post.bias": "visual.ln_post.bias",
    "proj": "visual.proj",
}
_TEXT = {
    "token_embedding": "token_embedding.weight",
    "positional_embedding": "positional_embedding",
    **{
        f"stack.block.{ours}": f"transformer.resblocks.{{i}}.{theirs}"
        for ours, theirs in _BLOCK.items()
    },
    "ln_final.weight": "ln_final.weight",
    "ln_final.bias": "ln_final.bias",
    "proj": "text_projection",
}
_CONVNEXT_BLOCK = {
    "conv.weight": "conv_dw.weight",
    "conv.bias": "conv_dw.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "mlp.up.weight": "mlp.fc1.weight",
    "mlp.up.bias": "mlp.fc1.bias",
    "mlp.down.weight": "mlp.fc2.weight",
    "mlp.down.bias": "mlp.fc2.bias",
    "gamma": "gamma",
}
_CONVNEXT_STAGE = {
    "downsample.norm.weight": "downsample.0.weight",
    "downsample.norm.bias": "downsample.0.bias",
    "downsample.conv.weight": "downsample.1.weight",
    "downsample.conv.bias": "downsample.1.bias",
    **{f"stack.block.{ours}": f"blocks.{{i}}.{theirs}" for ours, theirs in _CONVNEXT_BLOCK.items()},
}
_CONVNEXT = {
    "stem.weight": "visual.trunk.stem.0.weight",
    "stem.bias": "visual.trunk.stem.0.bias",
    "stem_norm.weight": "visual.trunk.stem.1.weight",
    "stem_norm.bias": "visual.trunk.stem.1.bias",
    "norm.weight": "visual.trunk.head.norm.weight",
    "norm.bias": "visual.trunk.head.norm.bias",
    "head.weight": "visual.head.proj.weight",
    "head.up.weight": "visual.head.mlp.fc1.weight",
    "head.up.bias": "visual.head.mlp.fc1.bias",
    "head.down.weight": "visual.head.mlp.fc2.weight",
}


def _convnext_names(tower: ConvNeXt) -> dict[str, str]:
    stages = {
        f"stages.{stage}.{ours}": f"visual.trunk.stages.{stage}.{theirs}"
        for stage in range(len(tower.stages))
        for ours, theirs in _CONVNEXT_STAGE.items()
    }
    return {**_CONVNEXT, **stages}


def names(model: CLIP) -> dict[str, str]:
    """Our path -> OpenCLIP's name, for (at least) every leaf of `model`.

    Raises `ValueError` for towers that OpenCLIP does not know.
    """
    image, text = model.image, model.text
    if isinstance(image, VisionTransformer):
        image_names = _VISION
    elif isinstance(image, ConvNeXt):
        image_names = _convnext_names(image)
    else:
        raise unknown_tower(image)
    if not isinstance(text, TextTransformer):
        raise unknown_tower(text)
    return {
        "logit_scale": "logit_scale",
        "logit_bias": "logit_bias",
        **{f"image.{ours}": theirs for ours, theirs in image_names.items()},
        **{f"text.{ours}": theirs for ours, theirs in _TEXT.items()},
    }


Placement = jax.Device | Sharding | Mesh


class Entry(NamedTuple):
    """A leaf of a model and the tensors that it is made of; `stacked` says if along an axis."""

    leaf: jax.Array | jax.ShapeDtypeStruct
    tensors: tuple[str, ...]
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
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
        theirs = table[ours]
        stacked = "{i}" in theirs
        count = leaf.shape[0] if stacked else 1
        yield Entry(leaf, tuple(theirs.format(i=i) for i in range(count)), stacked)


def to_state_dict(model: CLIP) -> dict[str, np.ndarray]:
    """`model` as OpenCLIP's state dict: NumPy arrays by OpenCLIP's names, dtypes kept.

    The arrays may share memory with the model's; do not write into them. Raises `ValueError` for
    towers that OpenCLIP does not know. Inverse of `from_state_dict`.
    """
    tensors = {}
    for leaf, keys, stacked in entries(model):
        array = np.asarray(leaf, order="C")  # safetensors writes the memory as it lies
        tensors.update(zip(keys, array if stacked else [array], strict=True))
    return tensors


ModelT = TypeVar("ModelT", bound=CLIP)


def fill(
    skeleton: ModelT,
    tensors: Mapping[str, np.ndarray],
    dtype: DTypeLike | None = None,
    placement: Placement | None = None,
) -> ModelT:
    """`skeleton`, a model of `jax.ShapeDtypeStruct`s, with the arrays of OpenCLIP's state dict.

    Strict both ways: raises `ValueError` for a missing tensor, for one that is left over, for one
    of another shape and for one that is not of floats. Each tensor is read once, and copied once,
    into its leaf. `dtype`: of every leaf; None keeps that of the tensors, of those of a stack the
    one that holds all. `placement`: where the leaves go, of a mesh as `sharding.shardings` says.
    """
    rows = list(entries(skeleton))
    places: list[Any] = [placement] * len(rows)
    if isinstance(placement, Mesh):
        places = jax.tree.leaves(shardings(skeleton, placement))
    _check_keys({key for row in rows for key in row.tensors}, set(tensors))
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


def _fill_leaf(
    row: Entry, tensors: Mapping[str, np.ndarray], dtype: DTypeLike | None
) -> np.ndarray:
    leaf = None
    for i, key in enumerate(row.tensors):
        tensor = _read(tensors, key)
        if tensor.shape != row.shape:
            raise ValueError(
                f"Tensor {key!r} must have shape {row.shape} in this configuration; it has "
                f"{tensor.shape}. Weights and configuration do not belong together."
            )
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


def _read(tensors: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        tensor = np.asarray(tensors[key])
    except (TypeError, RuntimeError, ValueError) as error:  # of whatever library made the tensor
        raise ValueError(
            f"Tensor {key!r} cannot be read as a NumPy array: {error} Of a torch tensor: "
            "`tensor.detach().float().numpy()`."
        ) from error
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"Tensor {key!r} must be of floats; it is of {tensor.dtype}.")
    return tensor


def _check_keys(expected: set[str], given: set[str]) -> None:
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
    return ", ".join(repr(key) for key in keys[:3])


Edit = Callable[[np.ndarray], np.ndarray]

# OpenAI's own files say sizes as tensors; OpenCLIP drops them, too.
_LEGACY = ("input_resolution", "context_length", "vocab_size")


class Canonical(Mapping[str, np.ndarray]):
    """A state dict that OpenCLIP reads, in its plain form; each tensor is read when asked for.

    Without the prefix `module.` of distributed training and the prefix `text.` that OpenCLIP's
    `CustomTextCLIP` puts before the text tower; with scalars for one-element logit scales; and
    with `edits`, functions of tensors by name, applied. Raises `ValueError` where two tensors have
    one plain name.
    """

    def __init__(self, tensors: Any, edits: Mapping[str, Edit]):
        if not (isinstance(tensors, Mapping) and all(isinstance(key, str) for key in tensors)):
            raise ValueError("Expected a state dict, a mapping of arrays by OpenCLIP's names.")
        keys = [key for key in tensors if key not in _LEGACY]
        self._tensors = tensors
        self._keys = {key.removeprefix("module.").removeprefix("text."): key for key in keys}
        self._edits = {"logit_scale": _scalar, "logit_bias": _scalar, **edits}
        if len(self._keys) != len(keys):
            raise ValueError("The state dict has tensors twice, with and without a prefix.")

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = np.asarray(self._tensors[self._keys[key]])
        return self._edits[key](tensor) if key in self._edits else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _scalar(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(()) if tensor.shape == (1,) else tensor
