"""Tensors in several files, by an index that says which is where."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._checks import short_repr


INDEX_SUFFIX = ".index.json"


class ShardedFiles(Mapping[str, np.ndarray]):
    """The tensors of the files that an index names, each file opened when a tensor of it is read.

    To be used in a `with` block. `open_file` opens one of them. Raises `ValueError` for an index
    that is none, for a file that is missing, and for a tensor that is not in the file where the
    index has it.
    """

    metadata: Mapping[str, str] = {}
    note, kind = "", "several files by an index"

    def __init__(self, path: Path, open_file: Callable[[Path], Any]):
        self._path, self._open_file = path, open_file
        self._names = _read(path)
        self._open: dict[str, Any] = {}
        files = sorted(set(self._names.values()))
        missing = [name for name in files if not (path.parent / name).is_file()]
        if missing:
            raise ValueError(
                f"{path} names {len(files)} files, of which {len(missing)} are missing, e.g. "
                f"{missing[0]!r}: fetch them into {path.parent}."
            )

    def __enter__(self) -> "ShardedFiles":
        return self

    def __exit__(self, *exception) -> None:
        self._open.clear()

    def __getitem__(self, key: str) -> np.ndarray:
        return self._file(key)[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read for it."""
        return self._file(key).shape(key)

    def dtype(self, key: str) -> str:
        """The type of a tensor's numbers."""
        return self._file(key).dtype(key)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _file(self, key: str) -> Any:
        name = self._names[key]
        if name not in self._open:
            self._open[name] = self._open_file(self._path.parent / name)
        if key not in self._open[name]:
            raise ValueError(f"{self._path} has {key!r} in {name!r}, which does not hold it.")
        return self._open[name]


def files_of(index: Path) -> tuple[str, ...]:
    """The names of the files that an index names. `ValueError` for what is no index."""
    return tuple(sorted(set(_read(index).values())))


def _read(path: Path) -> dict[str, str]:
    try:
        names = json.loads(path.read_bytes())["weight_map"]
        plain = all(isinstance(x, str) for pair in names.items() for x in pair)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        plain, names = False, {}
    if not plain or not names:
        raise ValueError(
            f"{path} is no index of files of weights: expected an object with `weight_map`, the "
            "name of a file for each tensor."
        )
    outside = [name for name in names.values() if Path(name).name != name]
    if outside:
        raise ValueError(f"{path} names {short_repr(outside[0])}, which is not a file beside it.")
    return names
