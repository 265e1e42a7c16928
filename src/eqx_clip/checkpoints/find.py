"""What a source of weights is: a registered name, the hub, a folder or a file."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypedDict

from .._checks import short_repr
from .._clip import CLIPConfig
from .._types import PathLike
from ..zoo.architectures import LISTING, is_model, model_config, nearest_model
from ..zoo.pairs import open_clip_pairs, pair_of, pairs_of
from ..zoo.pretrained import PRETRAINED, find_pretrained
from . import transformers_files as transformers
from .config import config_from_open_clip
from .files.json_object import json_object
from .files.weights import SUFFIXES, Container, open_weights
from .format import OPEN_CLIP, TRANSFORMERS, Format, form_of
from .hub import (
    CONFIG_FILE,
    REGISTERED_FILES,
    REPO,
    WEIGHT_FILES,
    WeightsNotFoundError,
    fetch,
    find_in_folder,
)
from .open_clip.tensors import is_openais
from .recognize import recognized
from .tokenizer_files import with_tokenizer_in, with_tokenizer_of


logger = logging.getLogger("eqx_clip")


class Place(TypedDict):
    """Where of the hub, and of its cache."""

    revision: str | None
    cache_dir: str | os.PathLike[str] | None


class Found(NamedTuple):
    """What a source turned out to be."""

    config: CLIPConfig
    weights: Path
    form: Format = OPEN_CLIP


def find(
    source: PathLike,
    tag: PathLike | None,
    *,
    cache_dir: str | os.PathLike[str] | None,
    revision: str | None,
    part: str | None = None,
) -> Found:
    """The configuration and the file of weights of what `load` is given, fetched if need be."""
    for argument, value in (("source", source), ("tag", "none" if tag is None else tag)):
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            raise ValueError(f"`{argument}` must be a name or a path; got {short_repr(value)}.")
    name = os.fspath(source)
    place = Place(revision=revision, cache_dir=cache_dir)
    if name.startswith("hf-hub:"):
        _refuse(tag=tag, where="a repository of the hub")
        return _of_repository(name.removeprefix("hf-hub:"), place)
    is_path = os.sep in name and os.path.isdir(name)  # "ViT-B/32" is none
    if isinstance(source, str) and is_model(name) and not is_path:
        if tag is None or not _is_file_name(tag):
            return _of_pair(name, None if tag is None else os.fspath(tag), place)
        _refuse(revision=revision, where="a file")
        return _in_file(_existing_weights(_path(tag)), name, part)
    path = _path(name.removeprefix("local-dir:"))
    if os.path.isdir(path):  # unlike `Path.is_dir`, of any string
        _refuse(tag=tag, revision=revision, where="a folder")
        return _in_folder(path, part)
    if os.path.isfile(path):
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{name!r} is no model; load its folder: {str(path.parent)!r}.")
        _refuse(tag=tag, revision=revision, where="a file")
        return _in_file(path, part=part)
    raise _unknown(name, None if tag is None else os.fspath(tag))


def _of_repository(repo: str, place: Place) -> Found:
    path = fetch([repo], [CONFIG_FILE, transformers.CONFIG_FILE], **place)
    if path.name == transformers.CONFIG_FILE:
        config, weights = _in_transformers(transformers.fetched([repo], place), repo)
        return Found(with_tokenizer_of(config, [repo], **place), weights, TRANSFORMERS)
    config, weights = _read_config(path), fetch([repo], WEIGHT_FILES, **place)
    return Found(with_tokenizer_of(config, [repo], **place), weights)


def _of_pair(name: str, tag: str | None, place: Place) -> Found:
    if tag is None and os.path.isdir(name):
        logger.warning("%r is taken for the registered model; the folder is './%s'.", name, name)
    row = find_pretrained(name, tag)
    weights = fetch(row.repos, REGISTERED_FILES, **place)
    return Found(with_tokenizer_of(row.config, row.repos, **place), weights)


def _in_folder(folder: Path, part: str | None) -> Found:
    if transformers.is_in(folder):
        config, weights = _in_transformers(folder, folder.resolve().name)
        return Found(with_tokenizer_in(config, folder), weights, TRANSFORMERS)
    weights = find_in_folder(folder)
    config = _config_beside(weights)
    if config is None:
        with open_weights(weights, part) as tensors:
            config = _config_within(weights, tensors) or _missing_config(folder)
    return Found(with_tokenizer_in(config, folder), weights)


def _in_file(weights: Path, name: str | None = None, part: str | None = None) -> Found:
    """What one file of weights is: the model called `name`, or by itself."""
    with open_weights(weights, part) as tensors:
        form = form_of(tensors)
        own = _config_beside(weights) or _config_within(weights, tensors)
        if own is None and form is TRANSFORMERS and transformers.is_in(weights.parent):
            own = transformers.read_config(weights.parent, weights.parent.resolve().name)
        if name is not None:
            config = _named_config(name, own, weights)
            if own is None and is_openais(tensors):  # whatever the name says
                config = config.with_quick_gelu()
        else:
            config = recognized(tensors, form, weights) if own is None else own
    return Found(with_tokenizer_in(config, weights.parent), weights, form)


def _in_transformers(folder: Path, source: str) -> tuple[CLIPConfig, Path]:
    return transformers.read_config(folder, source), transformers.weights_in(folder)


def _unknown(name: str, tag: str | None) -> ValueError:
    """What to say of a source that is neither a registered model nor a path."""
    theirs = [pair_of(tag, name)] if tag is not None else []
    for pair in (*theirs, *pairs_of(name)[-1:]):
        if pair is not None:
            return ValueError(f"{pair.answer} {LISTING}")
    problem = f"{short_repr(name)} is no registered model and no folder.{nearest_model(name)}"
    if not REPO.fullmatch(name):
        hub = "Repositories of the hub: 'hf-hub:organisation/repository'."
        return ValueError(f"{problem} {LISTING} {hub}")
    return ValueError(_answer_for(name) or f"{problem} {LISTING} Of the hub: {_on_the_hub(name)}")


def _answer_for(repo: str) -> str | None:
    """What to say of a repository of the hub that is known here, without `hf-hub:`."""
    for row in PRETRAINED:
        if repo in row.repos:
            return (
                f"{repo!r} is a repository of the hub, and registered: "
                f"`eqx_clip.load({row.model!r}, {row.tag!r})`. {_on_the_hub(repo)}"
            )
    pairs = (pair for pair in open_clip_pairs() if pair.repo == repo)
    return next((f"{repo!r} is a repository of the hub. {pair.answer}" for pair in pairs), None)


def _on_the_hub(repo: str) -> str:
    return (
        f"`eqx_clip.load('hf-hub:{repo}')` loads a repository in OpenCLIP's format, or in that of "
        "transformers."
    )


def _path(path: PathLike) -> Path:
    return Path(os.path.expanduser(path))


def _as_folder(path: Path) -> str:
    """The path as no name of a model is written."""
    name = str(path)
    return name if os.sep in name else os.path.join(os.curdir, name)


def _is_file_name(tag: str | os.PathLike[str]) -> bool:
    return not isinstance(tag, str) or tag.endswith(SUFFIXES) or os.path.isfile(_path(tag))


def _existing_weights(path: Path) -> Path:
    if not path.is_file():
        raise WeightsNotFoundError(f"There is no file {path}.")
    return path


def _refuse(*, where: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"`{name}={short_repr(value)}` has no meaning for {where}.")


def _named_config(name: str, own: CLIPConfig | None, weights: Path) -> CLIPConfig:
    """The configuration that `name` stands for, with the file's `own` activation, preprocessing and
    sizes of images and texts."""
    named = model_config(name)
    if own is None:
        return named
    if _architecture(named) != _architecture(own):
        raise ValueError(
            f"{weights} is not {name!r}: the configuration in the file or beside it says "
            f"{own.image} and {own.text}. Load its folder: "
            f"`eqx_clip.load({_as_folder(weights.parent)!r})`."
        )
    return own


def _architecture(config: CLIPConfig) -> list[dict[str, Any]]:
    """What every file of weights of an architecture has in common."""
    free = ("activation", "image_size", "context_length")
    return [
        {key: value for key, value in dataclasses.asdict(tower).items() if key not in free}
        for tower in (config.image, config.text)
    ]


def _config_beside(weights: Path) -> CLIPConfig | None:
    path = weights.parent / CONFIG_FILE
    return _read_config(path) if path.is_file() else None


def _config_within(weights: Path, tensors: Container) -> CLIPConfig | None:
    """The configuration that the weights carry, if any, as those that `save` writes do."""
    text = tensors.metadata.get(CONFIG_FILE)
    return None if text is None else _parse_config(text, where=weights)


def _read_config(path: Path) -> CLIPConfig:
    return _parse_config(path.read_bytes(), where=path)


def _parse_config(text: str | bytes, *, where: Path) -> CLIPConfig:
    config = json_object(text, where, "OpenCLIP")
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
