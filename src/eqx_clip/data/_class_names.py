"""What classes are called: given, read from a file, or known of ImageNet."""

import functools
import importlib.resources
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._types import PathLike


logger = logging.getLogger("eqx_clip.data")

# One name a class in order, names by class, or a file of either.
Names = Iterable[str] | Mapping[str, str] | PathLike


def class_names_of(found: list[str], given: Names | None, place: Any) -> tuple[str, ...]:
    """A name for each class that was found, in that order.

    Raises `ValueError` for names that are not as many, for a class that a mapping lacks, and for
    two classes of one name that was given.
    """
    if given is None:
        return _own(found, place)
    if isinstance(given, str | os.PathLike):
        return class_names_of(found, _read(Path(given).expanduser(), found), place)
    if isinstance(given, Mapping):
        missing = [name for name in found if name not in given]
        if missing:
            raise ValueError(f"The names lack {listed(missing)}, of the classes of {place}.")
        return tuple(given[name] for name in found)
    names = tuple(given)
    if len(names) != len(found):
        raise ValueError(
            f"{place} has {len(found)} classes, {listed(found)}; got {len(names)} names, "
            f"{listed(names)}. Expected a name for each, in that order."
        )
    return names


def _own(found: list[str], place: Any) -> tuple[str, ...]:
    """The classes' own names, or those of ImageNet where they are its identifiers."""
    known = imagenet_names() if any(_IDENTIFIER.fullmatch(name) for name in found) else {}
    names = tuple(known.get(name, name.replace("_", " ")) for name in found)
    unnamed = [name for name in names if _IDENTIFIER.fullmatch(name) or name.isdigit()]
    if unnamed:
        logger.warning(
            "%s: %d classes are called %s, by which a model does not know them. Give their names: "
            "`class_names=`, --zero-shot-names.",
            *(place, len(unnamed), listed(unnamed)),
        )
    return names


_IDENTIFIER = re.compile(r"n\d{8}")


@functools.cache
def imagenet_names() -> Mapping[str, str]:
    """OpenAI's names of the classes of ImageNet, by their identifiers in WordNet."""
    path = importlib.resources.files("eqx_clip") / "assets" / "imagenet_classes.tsv"
    return dict(line.split("\t") for line in path.read_text("utf-8").splitlines())


def _read(path: Path, found: list[str]) -> Mapping[str, str] | Iterable[str]:
    """The names in a file, in order or by class."""
    try:
        text = path.read_text("utf-8-sig")
        values = json.loads(text) if path.suffix.lower() == ".json" else None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as names of classes: {error}") from error
    if isinstance(values, list | dict):
        names = values.values() if isinstance(values, dict) else values
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"The names in {path} must be strings.")
        return values
    if values is not None:
        raise ValueError(f"{path} must hold a list of names, or an object of names by class.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [re.split(r"[\s,]+", line, maxsplit=1) for line in lines]
    by_class = dict(pair for pair in pairs if len(pair) == 2)
    if len(by_class) == len(lines) and set(found) & by_class.keys():
        return by_class
    return lines


def listed(names: Iterable[str]) -> str:
    """The first few of many names, and how many they are."""
    names = list(names)
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
