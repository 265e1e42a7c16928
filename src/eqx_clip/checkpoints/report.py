"""What a file of weights is, from its headers: nothing is built, and no large array is read."""

import collections
import dataclasses
import math
import os
from pathlib import Path

from ..zoo.families import FAMILIES
from . import transformers_files as transformers
from .convert import check
from .files.weights import Container, open_weights
from .find import Found, find
from .format import Format, form_of
from .hub import find_in_folder
from .open_clip.tensors import is_openais
from .recognize import Sizes, sizes_of
from .rows.sizes import TowerSizes


@dataclasses.dataclass(frozen=True)
class Report:
    """Lines of a name and a text each, and what `load` says against the file, if anything."""

    lines: tuple[tuple[str, str], ...]
    error: str | None


def examine(path: str) -> Report:
    """What a file of weights, or the one in a folder, is, and what `load` would make of it.

    Raises `ValueError` and `OSError` for what is no file of weights, or not a whole one.
    """
    weights = _weights(Path(os.path.expanduser(path)))
    with open_weights(weights) as tensors:
        form = form_of(tensors)
        lines = [
            ("file", str(weights)),
            ("container", tensors.kind),
            ("names", _origin(tensors, form)),
            *_towers(sizes_of(tensors, form)),
            ("tensors", f"{len(tensors):,}"),
            ("numbers", _numbers(tensors)),
            *([("parts", tensors.note)] if tensors.note else []),
        ]
        try:
            found = find(path, None, cache_dir=None, revision=None)
            check(found.config, tensors, found.form.positions(found.config, found.config), form)
        except ValueError as error:
            return Report(tuple(lines), str(error))
    return Report((*lines, *_loaded(found)), None)


def _weights(path: Path) -> Path:
    if path.is_dir():
        return transformers.weights_in(path) if transformers.is_in(path) else find_in_folder(path)
    if not path.is_file():
        raise ValueError(f"There is no file or folder {path}.")
    return path


def _origin(tensors: Container, form: Format) -> str:
    return f"{form.name}, in a file of OpenAI's" if is_openais(tensors) else form.name


def _towers(sizes: Sizes | None) -> list[tuple[str, str]]:
    if sizes is None:
        return [("towers", "of no family that is recognised")]
    bias = [("logit bias", "yes, as SigLIP has")] if sizes.has_bias else []
    return [("images", _tower(sizes.image)), ("texts", _tower(sizes.text)), *bias]


def _tower(tower: TowerSizes) -> str:
    family = next(family.name for family in FAMILIES if family.config is tower.config)
    return f"{family}: {tower.described}"


def _numbers(tensors: Container) -> str:
    """How many numbers there are, of each type."""
    counts = collections.Counter[str]()
    for name in tensors:
        counts[tensors.dtype(name)] += math.prod(tensors.shape(name))
    return ", ".join(f"{count:,} of {dtype}" for dtype, count in counts.most_common())


def _loaded(found: Found) -> list[tuple[str, str]]:
    """The model that `load` makes, part by part."""
    parts = ("image", "text", "preprocess", "tokenizer")
    return [(f"load: {part}", str(getattr(found.config, part))) for part in parts]
