"""Files here and far away, by fsspec: what a path names, ranges of bytes, a mark of its content."""

import dataclasses
import datetime
import functools
import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import fsspec
from braceexpand import braceexpand

from .._types import PathLike


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it was when it was looked at: `mark` changes with its content, size or time."""

    url: str
    size: int
    mark: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def normalized(path: PathLike) -> str:
    """A URL as it is; a local path absolute, so that it means the same in a worker."""
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def is_folder(url: str) -> bool:
    filesystem, path = _located(url)
    return filesystem.isdir(path)


def look_at(url: str) -> File:
    """The file of that name, or `FileNotFoundError`."""
    filesystem, path = _located(url)
    try:
        info = filesystem.info(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {url!r}.") from error
    return _file(url, info)


def files_in(folder: str) -> list[File]:
    """The files of a folder, by name."""
    return [
        _file(joined(folder, name), info)
        for name, info in _entries(folder).items()
        if info["type"] == "file"
    ]


def folders_in(folder: str) -> list[str]:
    """The names of the folders in a folder."""
    return [name for name, info in _entries(folder).items() if info["type"] == "directory"]


class Entry(NamedTuple):
    """What a folder holds under a name; `facts()` changes with a file's content, size or time."""

    name: str
    is_folder: bool
    facts: Callable[[], Any]


def entries(folder: str) -> list[Entry]:
    """What a folder holds but hidden files, in no order; a file is looked at by `facts()` alone."""
    if "://" in folder:
        infos = _entries(folder).items()
        found = [
            Entry(name, info["type"] == "directory", functools.partial(_facts, info))
            for name, info in infos
        ]
    else:  # a tenth of fsspec's time, which counts for millions of files
        with os.scandir(folder) as listing:
            found = [
                Entry(one.name, one.is_dir(), functools.partial(_facts_here, one))
                for one in listing
            ]
    return [entry for entry in found if not entry.name.startswith(".")]


def walk(folder: str) -> Iterator[tuple[str, list[Entry]]]:
    """Each folder, as a path from the first one, "" or "below/", and its files but hidden ones."""
    yield from _walk(folder, "", frozenset())


def _walk(root: str, folder: str, above: frozenset[str]) -> Iterator[tuple[str, list[Entry]]]:
    url = joined(root, folder).rstrip("/")
    place = url if "://" in url else os.path.realpath(url)
    if place in above:  # a link that leads back up
        return
    found = sorted(entries(url))
    yield folder, [entry for entry in found if not entry.is_folder]
    for entry in found:
        if entry.is_folder:
            yield from _walk(root, f"{folder}{entry.name}/", above | {place})


def _facts_here(entry: os.DirEntry) -> tuple[int, int]:
    stat = entry.stat()
    return stat.st_size, stat.st_mtime_ns


def sizes_here(urls: Sequence[str | None]) -> list[int | None]:
    """The bytes of each file; None for those far away, and for what is not there."""
    parts = [urls[start : start + 256] for start in range(0, len(urls), 256)]
    with ThreadPoolExecutor() as pool:
        return [size for sizes in pool.map(_sizes_here, parts) for size in sizes]


def _sizes_here(urls: Sequence[str | None]) -> list[int | None]:
    return [size_here(url) for url in urls]


def size_here(url: str | None) -> int | None:
    """The bytes of a file; None where it is far away, or not there."""
    try:
        return None if url is None or "://" in url else os.stat(url).st_size
    except (OSError, ValueError):  # which whoever reads it is told
        return None


def contents(folder: str) -> str:
    """The first names in a folder, for an error."""
    entries = _entries(folder)
    names = [name + "/" * (info["type"] == "directory") for name, info in entries.items()]
    return listed(names) if names else "nothing"


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _entries(folder: str) -> dict[str, dict[str, Any]]:
    """What a folder holds, by name."""
    filesystem, path = _located(folder)
    infos = (_followed(filesystem, info) for info in filesystem.ls(path, detail=True))
    names = {info["name"].rstrip("/").rsplit("/", 1)[-1]: info for info in infos}
    return dict(sorted(names.items()))


def _followed(filesystem: Any, info: dict[str, Any]) -> dict[str, Any]:
    """What a link leads to: a folder's list, unlike a look at one path, tells of the link."""
    if not info.get("islink"):
        return info
    try:
        return filesystem.info(info["name"])
    except FileNotFoundError:  # which whoever reads it is told, too
        return {**info, "type": "file"}


def is_pattern(url: str) -> bool:
    """Whether it has braces or stars, and is not a name that has them in it."""
    if not any(character in url for character in "*?[{"):
        return False
    filesystem, path = _located(url)
    return not filesystem.exists(path)


def matches(pattern: str) -> list[File]:
    """The files that a pattern with braces (`{00000..00041}.tar`) or stars names, in its order.

    Raises `FileNotFoundError` where one of the braces' names, or every star's, is missing.
    """
    found: list[File] = []
    for url in braceexpand(pattern):
        if not any(character in url for character in "*?["):
            found.append(look_at(url))
            continue
        filesystem, path = _located(url)
        infos: Any = filesystem.glob(path, detail=True)
        followed = {name: _followed(filesystem, info) for name, info in sorted(infos.items())}
        found += [
            _file(filesystem.unstrip_protocol(name) if "://" in url else name, info)
            for name, info in followed.items()
            if info["type"] == "file"
        ]
    if not found:
        raise FileNotFoundError(f"No file matches {pattern!r}.")
    return found


def joined(folder: str, path: str) -> str:
    """`path`, where it is relative, below `folder`."""
    if "://" in path or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}"


def simplified(url: str) -> str:
    """The same place without `.`, `..` and doubled slashes: one spelling of those that it has."""
    scheme, separator, path = url.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(path)}"


def parent(url: str) -> str:
    return url.rsplit("/", 1)[0] or "/"


def read(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a file from `start` to `stop`, by one request."""
    if "://" not in url:  # a third of fsspec's time, which counts for small files
        with open(url, "rb") as stream:
            stream.seek(start or 0)
            return stream.read() if stop is None else stream.read(stop - (start or 0))
    filesystem, path = _located(url)
    data: Any = filesystem.cat_file(path, start=start, end=stop)
    return data


def opened(url: str) -> Any:
    """A binary stream for reading from the start to the end, with seeks forwards."""
    filesystem, path = _located(url)
    if "://" not in url:
        return filesystem.open(path, "rb")
    return filesystem.open(path, "rb", cache_type="readahead", block_size=8 << 20)


def ending(name: str) -> str:
    """The format that a file's name tells, without that of its compression."""
    parts = name.lower().removesuffix(".gz").rsplit(".", 1)
    return parts[-1] if len(parts) == 2 else ""


def unpacked(file: File) -> Any:
    """A binary stream of a file's content, without its compression."""
    opened: Any = fsspec.open(file.url, "rb", compression="infer")
    return opened.open()


def digest(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def marks(files: Iterable[File]) -> str:
    """One mark of several files in their order."""
    return digest(*((file.url, file.size, file.mark) for file in files))


def _located(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.split("://")[0]
        extra = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "hf": "hf"}.get(scheme)
        remedy = f"`pip install 'eqx_clip[{extra}]'`." if extra else str(error)
        raise ImportError(f"Reading {scheme}:// needs another package: {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{url!r} cannot be read. {error}") from error
    return filesystem, path


def _file(url: str, info: dict[str, Any]) -> File:
    return File(url, info["size"], digest(_facts(info)))


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((name, _plain(value)) for name, value in info.items() if name in _MARKS)


def _plain(value: Any) -> str:
    """The same for a time as a date, as fsspec gives it for one file, and as seconds, for many."""
    return str(value.timestamp() if isinstance(value, datetime.datetime) else value)


# What file systems say of a file that changes when it does: local, memory, gs, s3, hf.
_MARKS = ("size", "mtime", "ino", "created", "updated", "etag", "ETag", "LastModified", "blob_id")
