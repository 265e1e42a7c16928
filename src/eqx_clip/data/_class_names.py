"""What classes are called: given, read from a file, or known of ImageNet."""

import functools
import importlib.resources
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._types import PathLike


logger = logging.getLogger("eqx_clip.data")

# One name a class in order, names by class, or a file of either.
Names = Iterable[str] | Mapping[str, str] | PathLike


def class_names_of(
    found: list[str], given: Names | None, place: Any, *, is_sorted: bool = False
) -> tuple[str, ...]:
    """A name for each class that was found, in that order.

    `is_sorted` says that the order is ours, that of folders' names as strings, where 10 is before
    2: then a list of names is refused if numbers would order them otherwise.

    Raises `ValueError` for names that are not as many or no strings, for a class that a mapping
    lacks, for a list whose order is not clear, for a file that may be a list as well as a mapping,
    and for two classes of one name that was given, but for the two that ImageNet has twice.
    """
    if given is None:
        return _own(found, place)
    if isinstance(given, str | os.PathLike):
        given = _read(Path(given).expanduser(), found)
    if isinstance(given, Mapping):
        missing = [name for name in found if name not in given]
        if missing:
            raise ValueError(f"The names lack {listed(missing)}, of the classes of {place}.")
        return _checked([given[name] for name in found], found)
    names = list(given)
    if len(names) != len(found):
        raise ValueError(
            f"{place} has {len(found)} classes, {listed(found)}; got {len(names)} names, "
            f"{listed(map(str, names))}. Expected a name for each, in that order."
        )
    if is_sorted:
        _check_order(found, place)
    return _checked(names, found)


def _checked(names: Sequence[Any], found: list[str]) -> tuple[str, ...]:
    """The names, if they are strings and each is one class's."""
    wrong = [name for name in names if not (isinstance(name, str) and name.strip())]
    if wrong:
        raise ValueError(f"Names of classes must be strings, none of them empty; got {wrong[0]!r}.")
    doubled = {name for name, count in Counter(imagenet_names().values()).items() if count > 1}
    for name, count in Counter(names).items():
        if count > 1 and name not in doubled:
            same = [one for one, other in zip(found, names, strict=True) if other == name]
            raise ValueError(
                f"The classes {listed(same)} are all given the name {name!r}: expected another one "
                "for each, since the model is to tell them apart by their names."
            )
    return tuple(names)


def _check_order(found: list[str], place: Any) -> None:
    """Refuses a list of names for folders that people count otherwise than strings are sorted."""
    counted = sorted(found, key=_as_counted)
    if counted != found:
        k = next(k for k, pair in enumerate(zip(counted, found, strict=True)) if len({*pair}) > 1)
        raise ValueError(
            f"A list of names is in one order, but the classes of {place} have two: as strings "
            f"{found[k]!r} comes in place {k}, as numbers {counted[k]!r} does. Give the names by "
            f"class: a mapping, or a file of lines such as '{found[k]}<tab>its name'."
        )


def _as_counted(name: str) -> list[tuple[int, str]]:
    """What sorts names with numbers in them by the numbers."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


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
    return _of_lines([line.strip() for line in text.splitlines() if line.strip()], path, found)


def _of_lines(lines: list[str], path: Path, found: list[str]) -> Mapping[str, str] | list[str]:
    """The lines as names in order, or by class where each begins with one and another word."""
    is_split = all("\t" in line for line in lines)
    pairs = [re.split(r"\t" if is_split else r"[\s,]+", line, maxsplit=1) for line in lines]
    known = {pair[0] for pair in pairs if len(pair) == 2} & set(found)
    if not known or any(len(pair) != 2 for pair in pairs):
        return lines
    words = sorted(filter(str.isalpha, known))
    if words and not is_split and len(lines) == len(found):
        raise ValueError(
            f"{path} may be names in order, or lines of a class and its name: {words[0]!r} is a "
            "class, and a word. Say which: put a tab behind the classes, or write the names as a "
            "list or an object in JSON."
        )
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{path} names the classes {listed(twice)} more than once.")
    return {name.strip(): other.strip() for name, other in pairs}


def listed(names: Iterable[str]) -> str:
    """The first few of many names, and how many they are."""
    names = list(names)
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
