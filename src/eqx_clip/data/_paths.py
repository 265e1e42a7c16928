"""Paths of images as tables spell them: on the web, with backslashes, from another folder."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._types import PathLike
from ._files import is_folder, joined, normalized


_ON_THE_WEB = re.compile("https?://", re.IGNORECASE)
_ADDRESSES = ("url", "image_url", "img_url")  # columns of what img2dataset downloads


def checked_root(folder: PathLike | None) -> str | None:
    """An `image_root`, absolute, or None where there is none given."""
    root = None if folder is None else normalized(folder)
    if root is not None and not is_folder(root):
        raise FileNotFoundError(f"There is no folder {root!r}, the `image_root`.")
    return root


def address_column(names: Sequence[str]) -> str | None:
    """A column that may hold addresses on the web, by its name."""
    return next((name for name in names if name.lower() in _ADDRESSES), None)


def is_on_the_web(path: str) -> bool:
    return _ON_THE_WEB.match(path) is not None


def download_first(table: str, found: str) -> str:
    return (
        f"The images of {table} are on the web, {found!r:.200}: download them first, for instance "
        "by img2dataset, and open what it writes."
    )


def with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def missing(path: str, folder: str) -> str:
    """What an image path that leads nowhere means, and what to do about it."""
    if os.path.isabs(path):
        return f"{path!r}. Write the paths of this machine, or relative ones and `image_root=`."
    place = f"{joined(folder, path)!r}. Relative paths start at {folder!r}"
    return f"{place}; another folder is named by `image_root=`."


def root_of(path: str, folder: str) -> str | None:
    """A folder where a relative path leads somewhere: the working directory, or near `folder`."""
    spellings = {path, with_slashes(path)}
    for root in _roots(folder):
        if any(os.path.exists(joined(root, spelling)) for spelling in spellings):
            return root
    return None


def _roots(folder: str) -> Iterator[str]:
    yield os.getcwd()
    if os.path.isdir(folder):
        yield from sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    yield from map(str, Path(folder).parents)
