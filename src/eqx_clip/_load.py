"""Models from a registered name, the hub, a folder, a file, a state dict, or new."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike, PRNGKeyArray

from ._checks import did_you_mean
from ._clip import CLIP, CLIPConfig
from ._hub import (
    CONFIG_FILE,
    PICKLE_SUFFIXES,
    WEIGHT_FILES,
    WeightsNotFoundError,
    check_not_pickle,
    fetch,
    find_in_folder,
)
from ._models import ALIASES, MODELS, is_model, model_config
from ._openclip import Canonical, Edit, fill
from ._openclip_config import config_from_open_clip
from ._positions import resize_image_positions, resize_text_positions
from ._registry import find_pretrained
from ._safetensors import SafetensorsFile
from ._types import Count, Real, Size
from ._vision import ViTConfig


ConfigLike = str | CLIPConfig | Mapping[str, Any]


class Found(NamedTuple):
    """What a source turned out to be."""

    config: CLIPConfig
    weights: Path


def load(
    source: str | os.PathLike[str],
    tag: str | os.PathLike[str] | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    image_size: Size | None = None,
    context_length: Count | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> CLIP:
    """A pretrained model, with its own preprocessing and tokenizer.

    **Arguments:**

    - `source`: one of
        - a registered name, ours or OpenCLIP's (`eqx_clip.list_pretrained()`), with its `tag`;
          without one the last that `eqx_clip.list_pretrained_by_model(name)` lists;
        - a name, and as `tag` the path of a `.safetensors` file with weights of that architecture;
        - `"hf-hub:org/repository"`, a repository on the hub in OpenCLIP's format;
        - a folder in OpenCLIP's format: `open_clip_config.json` and safetensors.
    - `dtype`: what the weights are stored, and computed with, as.
    - `image_size` (pixels, or (height, width)), `context_length` (tokens): resize the positional
      embeddings, and the preprocessing with them, as OpenCLIP does.
    - `cache_dir`, `revision`: of the hub; by default huggingface-hub's cache and the main branch.
      huggingface-hub's settings hold (`HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`, ...).

    Raises `ValueError` for an unknown name or tag (with the nearest), for a configuration that no
    tower here can reproduce, and for weights that are not whole or do not fit the configuration,
    tensor by tensor; `WeightsNotFoundError`, a `FileNotFoundError` and a `ValueError`, where there
    are none. Nothing is initialised at random, no pickle is opened, and no part of a model is
    returned. Source: OpenCLIP's `create_model`.
    """
    dtype = check_dtype(dtype)
    found = _find(source, tag, cache_dir=cache_dir, revision=revision)
    config = found.config.resize(image_size, context_length)
    with SafetensorsFile(found.weights) as tensors:
        try:
            return _fill(config, tensors, dtype, _resizing(found.config, config))
        except ValueError as error:
            raise ValueError(f"Cannot load {found.weights}: {error}") from None


def create(
    name_or_config: ConfigLike,
    *,
    key: PRNGKeyArray,
    dtype: DTypeLike = jnp.float32,
    image_size: Size | None = None,
    context_length: Count | None = None,
    init_logit_scale: Real | None = None,
    init_logit_bias: Real | None = None,
) -> CLIP:
    """A new model with OpenCLIP's random initialisation.

    `name_or_config`: a name, ours or OpenCLIP's (`eqx_clip.list_models()`), a `CLIPConfig`, or a
    configuration in OpenCLIP's format, as a dictionary. `init_logit_scale` is the log of the
    temperature (default: log(1 / 0.07)), `init_logit_bias` None for no bias. Other arguments as in
    `load`. Raises `ValueError` for an unknown name or a configuration that cannot be built.
    """
    dtype = check_dtype(dtype)
    config = _as_config(name_or_config).resize(image_size, context_length)
    if init_logit_scale is not None:
        config = dataclasses.replace(config, init_logit_scale=init_logit_scale)
    if init_logit_bias is not None:
        config = dataclasses.replace(config, init_logit_bias=init_logit_bias)
    model = eqx.filter_jit(config.build)(key=key)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), model)


def from_state_dict(
    name_or_config: ConfigLike,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: DTypeLike | None = None,
) -> CLIP:
    """The model of OpenCLIP's state dict: NumPy (or any array-like) tensors by OpenCLIP's names.

    `name_or_config` as in `create`. `dtype`: None keeps the tensors' own. The arrays are copied.
    Raises `ValueError` for a missing tensor, one left over, one of another shape, one not of
    floats. Inverse of `to_state_dict`.
    """
    dtype = None if dtype is None else check_dtype(dtype)
    return _fill(_as_config(name_or_config), tensors, dtype)


def _as_config(name_or_config: ConfigLike) -> CLIPConfig:
    if isinstance(name_or_config, CLIPConfig):
        return name_or_config
    if isinstance(name_or_config, Mapping):
        return config_from_open_clip(name_or_config)
    return model_config(name_or_config)


def _find(
    source: str | os.PathLike[str],
    tag: str | os.PathLike[str] | None,
    *,
    cache_dir: str | os.PathLike[str] | None,
    revision: str | None,
) -> Found:
    name = os.fspath(source)
    if name.startswith("hf-hub:"):
        _refuse(tag=tag, where="a repository of the hub")
        repo = name.removeprefix("hf-hub:")
        config = fetch([repo], [CONFIG_FILE], revision=revision, cache_dir=cache_dir)
        weights = fetch([repo], WEIGHT_FILES, revision=revision, cache_dir=cache_dir)
        return Found(_read_config(config), weights)
    if isinstance(source, str) and is_model(name):
        if tag is not None and _is_file_name(tag):
            _refuse(revision=revision, where="a file")
            return Found(model_config(name), _existing_weights(Path(tag)))
        row = find_pretrained(name, None if tag is None else os.fspath(tag))
        return Found(
            row.config, fetch(row.repos, row.files, revision=revision, cache_dir=cache_dir)
        )
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir():
        _refuse(tag=tag, revision=revision, where="a folder")
        return Found(_read_config(folder / CONFIG_FILE), find_in_folder(folder))
    if folder.is_file():
        check_not_pickle(folder)
        raise ValueError(
            f"{name!r} is a file, and does not say what it holds. Name its architecture, "
            f"`eqx_clip.load('vit-base-patch32', {name!r})`, or load a folder with {CONFIG_FILE!r} "
            "beside the weights."
        )
    nearest = did_you_mean(name, (*MODELS, *ALIASES))
    raise ValueError(
        f"{name!r} is no registered model and no folder.{nearest} Models: {', '.join(MODELS)}. "
        "Repositories of the hub: 'hf-hub:organisation/repository'."
    )


def _is_file_name(tag: str | os.PathLike[str]) -> bool:
    suffixes = (".safetensors", *PICKLE_SUFFIXES)
    return not isinstance(tag, str) or tag.endswith(suffixes) or Path(tag).is_file()


def _existing_weights(path: Path) -> Path:
    check_not_pickle(path)
    if not path.is_file():
        raise WeightsNotFoundError(f"There is no file {path}.")
    return path


def _refuse(*, where: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"`{name}={value!r}` has no meaning for {where}.")


def _read_config(path: Path) -> CLIPConfig:
    if not path.is_file():
        raise WeightsNotFoundError(
            f"There is no {path.name!r} in {path.parent}. It says what the weights are: write one, "
            "as OpenCLIP does, or name the architecture: "
            "`eqx_clip.load('vit-base-patch32', 'weights.safetensors')`."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, Mapping):
        raise ValueError(f"{path} must hold an object in OpenCLIP's format.")
    try:
        return config_from_open_clip(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _fill(
    config: CLIPConfig,
    tensors: Mapping[str, np.ndarray],
    dtype: DTypeLike | None,
    edits: Mapping[str, Edit] = MappingProxyType({}),
) -> CLIP:
    skeleton = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
    return fill(skeleton, Canonical(tensors, edits), dtype)


def _resizing(old: CLIPConfig, new: CLIPConfig) -> dict[str, Edit]:
    """What must be done to the positional embeddings of `old` for a model of `new`."""
    edits: dict[str, Edit] = {}
    if isinstance(old.image, ViTConfig) and isinstance(new.image, ViTConfig):
        grids = old.image.grid, new.image.grid
        if grids[0] != grids[1]:
            edits["visual.positional_embedding"] = lambda x: resize_image_positions(x, *grids)
    lengths = old.text.context_length, new.text.context_length
    if lengths[0] != lengths[1]:
        edits["positional_embedding"] = lambda x: resize_text_positions(x, *lengths)
    return edits


def check_dtype(dtype: DTypeLike) -> np.dtype:
    """`dtype`, if arrays of it can be made; else `ValueError`."""
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"Weights must be of floats; got `dtype={dtype.name}`.")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            "`dtype=float64` needs JAX's 64-bit mode: "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )
    return dtype
