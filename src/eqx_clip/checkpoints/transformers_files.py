"""The files of a CLIP in the format of transformers, in a folder or on the hub."""

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
from .transformers.preprocess import preprocess_from_transformers


logger = logging.getLogger("eqx_clip")

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PREPROCESSOR_FILE = "preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"  # of transformers 5, which holds all processors
_INDEX_FILE = f"model{INDEX_SUFFIX}"


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
    for name in (WEIGHTS_FILE, _INDEX_FILE):
        if (folder / name).is_file():
            return folder / name
    raise WeightsNotFoundError(
        f"{folder} holds no weights; expected {WEIGHTS_FILE!r} or {_INDEX_FILE!r} in it."
    )


def read_config(folder: Path) -> CLIPConfig:
    """The configuration of a folder, its image processor's included."""
    config = _read(folder / CONFIG_FILE)
    found = next((p for p in (PREPROCESSOR_FILE, _PROCESSOR_FILE) if (folder / p).is_file()), None)
    processor = {} if found is None else _read(folder / found)
    if found == _PROCESSOR_FILE:
        processor = processor.get("image_processor") or {}
    if not processor:
        logger.warning(
            "There is no %r in %s: images are prepared as transformers does by default, with "
            "OpenAI's mean and standard deviation.",
            PREPROCESSOR_FILE,
            folder,
        )
    try:
        vision = config.get("vision_config")
        size = vision.get("image_size", 224) if isinstance(vision, Mapping) else 224
        return config_from_transformers(config, preprocess_from_transformers(processor, size))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from None


def fetched(repos: Sequence[str], place: Mapping[str, Any]) -> Path:
    """The folder of a repository's files, which is in the hub's cache."""
    config = fetch(repos, [CONFIG_FILE], **place)
    weights = fetch(repos, [WEIGHTS_FILE, _INDEX_FILE], **place)
    if weights.name == _INDEX_FILE:
        for name in files_of(weights):
            fetch(repos, [name], **place)
    try:
        fetch(repos, [PREPROCESSOR_FILE, _PROCESSOR_FILE], **place)
    except WeightsNotFoundError:
        pass  # `read_config` says so
    return config.parent


def _read(path: Path) -> Mapping[str, Any]:
    return json_object(path.read_bytes(), path, "transformers")
