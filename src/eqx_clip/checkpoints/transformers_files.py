"""The files of a model in the format of transformers, in a folder or on the hub."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._clip import CLIPConfig
from .files.json_object import json_object
from .files.sharded import INDEX_SUFFIX, files_of
from .hub import CONFIG_FILE as OPEN_CLIP_CONFIG
from .hub import WEIGHT_FILES as OPEN_CLIP_WEIGHTS
from .hub import WeightsNotFoundError, fetch
from .transformers.config import config_from_transformers


logger = logging.getLogger("eqx_clip")

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PREPROCESSOR_FILE = "preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"  # of transformers 5, which holds all processors
# Safetensors before torch's, one file before the index of several: transformers' order.
_WEIGHTS = tuple(
    f"{name}{suffix}"
    for name in (WEIGHTS_FILE, "pytorch_model.bin")
    for suffix in ("", INDEX_SUFFIX)
)


def is_in(folder: Path) -> bool:
    """Whether a folder holds this format, and not OpenCLIP's."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    if (folder / OPEN_CLIP_CONFIG).is_file() or (folder / OPEN_CLIP_WEIGHTS[0]).is_file():
        logger.info("%s holds a model of transformers, too; OpenCLIP's is taken.", folder)
        return False
    return True


def weights_in(folder: Path) -> Path:
    """The file of weights, or the index of several. `WeightsNotFoundError` where there is none."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    names = ", ".join(map(repr, _WEIGHTS))
    raise WeightsNotFoundError(f"{folder} holds no weights; expected one of {names} in it.")


def read_config(folder: Path, source: str) -> CLIPConfig:
    """The configuration of a folder, its image processor's included; `source` is its name."""
    config = _read(folder / CONFIG_FILE)
    found = next((p for p in (PREPROCESSOR_FILE, _PROCESSOR_FILE) if (folder / p).is_file()), None)
    processor = {} if found is None else _read(folder / found)
    if found == _PROCESSOR_FILE:
        processor = processor.get("image_processor") or {}
    try:
        whole = config_from_transformers(config, processor, source)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from None
    if not processor:
        logger.warning(
            "There is no %r in %s: images are prepared as transformers does by default for models "
            "of type %r, with mean %s and standard deviation %s.",
            PREPROCESSOR_FILE,
            folder,
            config["model_type"],
            whole.preprocess.mean,
            whole.preprocess.std,
        )
    return whole


def fetched(repos: Sequence[str], place: Mapping[str, Any]) -> Path:
    """The folder of a repository's files, which is in the hub's cache."""
    config = fetch(repos, [CONFIG_FILE], **place)
    weights = fetch(repos, _WEIGHTS, **place)
    if weights.name.endswith(INDEX_SUFFIX):
        for name in files_of(weights):
            fetch(repos, [name], **place)
    try:
        fetch(repos, [PREPROCESSOR_FILE, _PROCESSOR_FILE], **place)
    except WeightsNotFoundError:
        pass  # `read_config` says so
    return config.parent


def _read(path: Path) -> Mapping[str, Any]:
    return json_object(path.read_bytes(), path, "transformers")
