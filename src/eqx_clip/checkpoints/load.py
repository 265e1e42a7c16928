"""Models from a registered name, the hub, a folder, a file, a state dict, or new."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._checks import check_dtype, check_key, short_repr
from .._clip import CLIP, CLIPConfig
from .._types import Count, DType, Key, Name, PathLike, Real, Size
from ..zoo.architectures import model_config
from .config import config_from_open_clip
from .convert import filled, skeleton
from .files.weights import open_weights
from .find import find
from .rows.state_dict import Placement


logger = logging.getLogger("eqx_clip")

# Silent at run time, as in `_types`: a `ValueError` with the remedy is to speak first.
if TYPE_CHECKING:
    ConfigLike = str | CLIPConfig | Mapping[str, Any]
    StateDict = Mapping[str, np.ndarray]
    Where = Placement
else:
    ConfigLike = StateDict = Where = Any


def load(
    source: PathLike,
    tag: PathLike | None = None,
    *,
    dtype: DType = jnp.float32,
    image_size: Size | None = None,
    context_length: Count | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    device: Where | None = None,
    part: Name | None = None,
) -> CLIP:
    """A pretrained model, with its own preprocessing and tokenizer.

    A tokenizer of files (`tokenizer.json`, `tokenizer_config.json`) is read from beside the
    weights; of a model on the hub also from the repository that its configuration names. Where
    they are missing the model loads, the log says so, and `model.tokenize` is a `ValueError`.

    **Arguments:**

    - `source`: one of
        - a registered name, ours or OpenCLIP's (`eqx_clip.list_pretrained()`), with its `tag`;
          without one the last that `eqx_clip.list_pretrained_by_model(name)` lists;
        - a name, and as `tag` the path of a file with weights of that architecture: `.safetensors`,
          or `.pt`, `.pth`, `.ckpt` or `.bin` of torch's, a training checkpoint or a TorchScript
          archive too, which is read without torch and without running its pickle; or `.npz` of
          big_vision's, of a SigLIP or SigLIP 2, its layers one by one or stacked.
          Activation and preprocessing are those of the configuration in the file or beside it;
          without one they are the name's: `"ViT-B-32-quickgelu"` for weights of the quick GELU.
          So are the sizes of images and texts. The names of the tensors may be OpenCLIP's or
          transformers'. big_vision computes with the tanh GELU everywhere,
          and OpenCLIP's names of SigLIP 1 with the exact one, which is taken for its files, too;
        - the path of such a file alone. What it is is the configuration in it or beside it (of
          transformers, too); else the one that all registered models and weights of its tensors'
          names and sizes have. Where these differ, in what tensors do not tell (activation,
          preprocessing, pixels, ...), the error lists them and what differs. OpenAI's own archives
          are compared with OpenAI's weights alone, so they load, with the quick GELU;
        - `"hf-hub:org/repository"`, a repository on the hub in OpenCLIP's format or in that of
          transformers' `CLIPModel` and `SiglipModel`;
        - a folder in OpenCLIP's format, `open_clip_config.json` and a file of weights
          (safetensors before torch's), or in that of transformers, `config.json`,
          `preprocessor_config.json` and `model.safetensors` or the files of its index, or else
          `pytorch_model.bin` or those of its. Where both are there, OpenCLIP's is taken.
    - `dtype`: what the weights are stored, and computed with, as: all of them, the logit scale
      with the rest. float32, bfloat16, float16 or, in JAX's 64-bit mode, float64; weights of a
      file may be of any of these, and of no other type, such as float8.
    - `image_size` (pixels, or (height, width)), `context_length` (tokens): resize the positional
      embeddings, and the preprocessing with them, as OpenCLIP does. Weights of another size than
      their configuration says are resized to the configuration's without them.
    - `cache_dir`, `revision`: of the hub; by default huggingface-hub's cache and the main branch.
      huggingface-hub's settings hold (`HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`, ...).
    - `device`: where each array goes as soon as it is read; by default JAX's. A `jax.Device`, a
      `jax.sharding.Sharding` that suits all arrays, or a mesh of `eqx_clip.sharding.make_mesh`,
      over which they are spread as `eqx_clip.sharding.place` does. One array at a time is in the
      host's memory twice, the largest first.
    - `part`: the key of the state dict in a file of torch's that holds several, such as
      "state_dict_ema", a moving average; by default the weights themselves, and the log tells of
      the average.

    Raises `ValueError` for an unknown name or tag (with the nearest), for a configuration that no
    tower here can reproduce, for weights that are not whole or do not fit the configuration, tensor
    by tensor, and for a sharding that does not divide some array; `WeightsNotFoundError`, a
    `FileNotFoundError` and a `ValueError`, where there are none. Nothing is initialised at random,
    no pickle is run, and no part of a model is returned. Source: OpenCLIP's `create_model`.
    """
    dtype = check_dtype(dtype)
    if not (device is None or isinstance(device, Placement)):
        raise ValueError(
            f"`device` must be a jax.Device, a Sharding or a Mesh; got {short_repr(device)}."
        )
    if not (part is None or isinstance(part, str)):
        raise ValueError(f"`part` must be the key of a state dict; got {short_repr(part)}.")
    found = find(source, tag, cache_dir=cache_dir, revision=revision, part=part)
    config = found.config.resize(image_size, context_length)
    edits = found.form.positions(found.config, config)
    with open_weights(found.weights, part) as tensors:
        if tensors.note:
            logger.info("%s: %s", found.weights, tensors.note)
        try:
            return filled(config, tensors, dtype, edits, device, found.form)
        except ValueError as error:
            raise ValueError(f"Cannot load {found.weights}: {error}") from None


def create(
    name_or_config: ConfigLike,
    *,
    key: Key,
    dtype: DType = jnp.float32,
    image_size: Size | None = None,
    context_length: Count | None = None,
    init_logit_scale: Real | None = None,
    init_logit_bias: Real | None = None,
) -> CLIP:
    """A new model with OpenCLIP's random initialisation.

    `name_or_config`: a name, ours or OpenCLIP's (`eqx_clip.list_models()`), a `CLIPConfig`, or a
    configuration in OpenCLIP's format, as a dictionary. `init_logit_scale` is the log of the
    temperature (default: log(1 / 0.07)), `init_logit_bias` None for no bias. Other arguments as in
    `load`. Raises `ValueError` for an unknown name, for a configuration that cannot be built, and
    for one that this machine's memory cannot hold.
    """
    dtype = check_dtype(dtype)
    config = _as_config(name_or_config).resize(image_size, context_length)
    if init_logit_scale is not None:
        config = dataclasses.replace(config, init_logit_scale=init_logit_scale)
    if init_logit_bias is not None:
        config = dataclasses.replace(config, init_logit_bias=init_logit_bias)
    _check_fits(config, check_key(key))
    model = eqx.filter_jit(config.build)(key=key)
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, model
    )


def from_state_dict(
    name_or_config: ConfigLike,
    tensors: StateDict,
    *,
    dtype: DType | None = None,
) -> CLIP:
    """The model of OpenCLIP's state dict: NumPy (or any array-like) tensors by OpenCLIP's names.

    `name_or_config` as in `create`. `dtype`: None keeps the tensors' own (a stack of mixed types
    has the widest; outside JAX's 64-bit mode float64 becomes float32). The arrays are copied.
    Raises `ValueError` for a missing tensor, one left over, one of another shape, one not of
    floats. Inverse of `to_state_dict`.
    """
    dtype = None if dtype is None else check_dtype(dtype)
    return filled(_as_config(name_or_config), tensors, dtype)


def _as_config(name_or_config: ConfigLike) -> CLIPConfig:
    if isinstance(name_or_config, CLIPConfig):
        return name_or_config
    if isinstance(name_or_config, Mapping):
        return config_from_open_clip(name_or_config)
    if not isinstance(name_or_config, str):
        raise ValueError(
            "Expected a name, a CLIPConfig, or a dictionary in OpenCLIP's format; got "
            f"{short_repr(name_or_config)}."
        )
    return model_config(name_or_config)


def _check_fits(config: CLIPConfig, key: Key) -> None:
    """`ValueError` for a model beyond the memory of this machine, before any of it is taken."""
    if isinstance(key, Tracer):  # shapes are asked for, or shards
        return
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(skeleton(config)))
    if size > _memory():
        raise ValueError(
            f"This model has {size // 4:,} parameters, {size / 2**30:,.0f} GiB, and here are "
            f"{_memory() / 2**30:,.0f} GiB of memory. Look at its sizes: {config.image}, "
            f"{config.text}."
        )


def _memory() -> int:
    """Bytes of memory, of the device where it says so, else of the host."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**50
