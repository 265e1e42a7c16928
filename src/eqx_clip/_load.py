"""Models from a registered name, the hub, a folder, a file, a state dict, or new."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike, PRNGKeyArray

from ._checks import check_dtype, did_you_mean
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
from ._openclip import Canonical, Edit, Placement, fill
from ._openclip_config import config_from_open_clip
from ._positions import resize_image_positions, resize_text_positions
from ._registry import find_pretrained
from ._safetensors import SafetensorsFile
from ._types import Count, PathLike, Real, Size
from ._vision import ViTConfig


# Silent at run time, as in `_types`: a `ValueError` with the remedy is to speak first.
if TYPE_CHECKING:
    ConfigLike = str | CLIPConfig | Mapping[str, Any]
    StateDict = Mapping[str, np.ndarray]
    Where = Placement
else:
    ConfigLike = StateDict = Where = Any


class Found(NamedTuple):
    """What a source turned out to be."""

    config: CLIPConfig
    weights: Path


def load(
    source: PathLike,
    tag: PathLike | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    image_size: Size | None = None,
    context_length: Count | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    device: Where | None = None,
) -> CLIP:
    """A pretrained model, with its own preprocessing and tokenizer.

    **Arguments:**

    - `source`: one of
        - a registered name, ours or OpenCLIP's (`eqx_clip.list_pretrained()`), with its `tag`;
          without one the last that `eqx_clip.list_pretrained_by_model(name)` lists;
        - a name, and as `tag` the path of a `.safetensors` file with weights of that architecture.
          Activation and preprocessing are those of the configuration in the file or beside it;
          without one they are the name's: `"ViT-B-32-quickgelu"` for weights of the quick GELU;
        - `"hf-hub:org/repository"`, a repository on the hub in OpenCLIP's format;
        - a folder in OpenCLIP's format: `open_clip_config.json` and safetensors.
    - `dtype`: what the weights are stored, and computed with, as: all of them, the logit scale
      with the rest.
    - `image_size` (pixels, or (height, width)), `context_length` (tokens): resize the positional
      embeddings, and the preprocessing with them, as OpenCLIP does.
    - `cache_dir`, `revision`: of the hub; by default huggingface-hub's cache and the main branch.
      huggingface-hub's settings hold (`HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`, ...).
    - `device`: where each array goes as soon as it is read; by default JAX's. A `jax.Device`, a
      `jax.sharding.Sharding` that suits all arrays, or a mesh of `eqx_clip.sharding.make_mesh`,
      over which they are spread as `eqx_clip.sharding.place` does. One array at a time is in the
      host's memory twice, the largest first.

    Raises `ValueError` for an unknown name or tag (with the nearest), for a configuration that no
    tower here can reproduce, for weights that are not whole or do not fit the configuration, tensor
    by tensor, and for a sharding that does not divide some array; `WeightsNotFoundError`, a
    `FileNotFoundError` and a `ValueError`, where there are none. Nothing is initialised at random,
    no pickle is opened, and no part of a model is returned. Source: OpenCLIP's `create_model`.
    """
    dtype = check_dtype(dtype)
    if not (device is None or isinstance(device, Placement)):
        raise ValueError(f"`device` must be a jax.Device, a Sharding or a Mesh; got {device!r}.")
    found = _find(source, tag, cache_dir=cache_dir, revision=revision)
    config = found.config.resize(image_size, context_length)
    with SafetensorsFile(found.weights) as tensors:
        try:
            return _fill(config, tensors, dtype, _resizing(found.config, config), device)
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
    tensors: StateDict,
    *,
    dtype: DTypeLike | None = None,
) -> CLIP:
    """The model of OpenCLIP's state dict: NumPy (or any array-like) tensors by OpenCLIP's names.

    `name_or_config` as in `create`. `dtype`: None keeps the tensors' own (a stack of mixed types
    has the widest; outside JAX's 64-bit mode float64 becomes float32). The arrays are copied.
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
    if not isinstance(name_or_config, str):
        raise ValueError(
            "Expected a name, a CLIPConfig, or a dictionary in OpenCLIP's format; got "
            f"{name_or_config!r}."
        )
    return model_config(name_or_config)


def _find(
    source: PathLike,
    tag: PathLike | None,
    *,
    cache_dir: str | os.PathLike[str] | None,
    revision: str | None,
) -> Found:
    for argument, value in (("source", source), ("tag", "none" if tag is None else tag)):
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            raise ValueError(f"`{argument}` must be a name or a path; got {value!r}.")
    name = os.fspath(source)
    if name.startswith("hf-hub:"):
        _refuse(tag=tag, where="a repository of the hub")
        repo = name.removeprefix("hf-hub:")
        config = fetch([repo], [CONFIG_FILE], revision=revision, cache_dir=cache_dir)
        weights = fetch([repo], WEIGHT_FILES, revision=revision, cache_dir=cache_dir)
        return Found(_read_config(config), weights)
    is_path = os.sep in name and Path(name).is_dir()  # "ViT-B/32" is none
    if isinstance(source, str) and is_model(name) and not is_path:
        if tag is not None and _is_file_name(tag):
            _refuse(revision=revision, where="a file")
            weights = _existing_weights(Path(tag))
            return Found(_config_of_file(name, weights), weights)
        row = find_pretrained(name, None if tag is None else os.fspath(tag))
        return Found(
            row.config, fetch(row.repos, row.files, revision=revision, cache_dir=cache_dir)
        )
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir():
        _refuse(tag=tag, revision=revision, where="a folder")
        weights = find_in_folder(folder)
        return Found(_own_config(weights) or _missing_config(folder), weights)
    if folder.is_file():
        check_not_pickle(folder)
        if folder.suffix != ".safetensors":
            raise ValueError(f"{name!r} is no model; load its folder: {str(folder.parent)!r}.")
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


def _config_of_file(name: str, weights: Path) -> CLIPConfig:
    """What one file of weights is: `name`, with the file's own activation and preprocessing."""
    named, own = model_config(name), _own_config(weights)
    if own is None:
        return named
    # With the quick GELU on both sides the activation does not count.
    quick = named.with_quick_gelu(), own.with_quick_gelu()
    if quick[0].image != quick[1].image or quick[0].text != quick[1].text:
        raise ValueError(
            f"{weights} is not {name!r}: the configuration in the file or beside it says "
            f"{own.image} and {own.text}. Load its folder: "
            f"`eqx_clip.load({str(weights.parent)!r})`."
        )
    return own


def _own_config(weights: Path) -> CLIPConfig | None:
    """The configuration that lies beside the weights, or else the one that they carry, if any."""
    path = weights.parent / CONFIG_FILE
    if path.is_file():
        return _read_config(path)
    with SafetensorsFile(weights) as tensors:
        text = tensors.metadata.get(CONFIG_FILE)
    return None if text is None else _parse_config(text, where=weights)


def _read_config(path: Path) -> CLIPConfig:
    return _parse_config(path.read_bytes(), where=path)


def _parse_config(text: str | bytes, *, where: Path) -> CLIPConfig:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(config, Mapping):
        raise ValueError(f"{where} must hold an object in OpenCLIP's format.")
    try:
        return config_from_open_clip(config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _missing_config(folder: Path) -> NoReturn:
    raise WeightsNotFoundError(
        f"There is no {CONFIG_FILE!r} in {folder}. It says what the weights are: write one, as "
        "OpenCLIP does, or name the architecture: "
        "`eqx_clip.load('vit-base-patch32', 'weights.safetensors')`."
    )


def _fill(
    config: CLIPConfig,
    tensors: StateDict,
    dtype: DTypeLike | None,
    edits: Mapping[str, Edit] = MappingProxyType({}),
    device: Placement | None = None,
) -> CLIP:
    skeleton = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
    return fill(skeleton, Canonical(tensors, edits), dtype, device)


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
