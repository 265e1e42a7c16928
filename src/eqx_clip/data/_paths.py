"""Paths of images as tables spell them: on the web, with backslashes, from another folder."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._types import PathLike
from ._files import is_folder, joined, normalized


_ON_THE_WEB = re.compile("https?://", re.IGNORECASE)
# As JPEG, PNG, GIF and WebP begin in it; a path would have a point in it.
_BASE64 = re.compile(r"(data:image/[\w.+-]+;base64,|/9j/|iVBORw0KGgo|R0lGOD|UklGR)[\w+/=\s-]+")
_LONG = 60  # characters
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


def is_base64(path: str) -> bool:
    """Whether a text in the place of a path is an image in base64."""
    return len(path) > _LONG and _BASE64.fullmatch(path) is not None


def not_base64(table: str, found: str) -> str:
    return (
        f"The images of {table} are in base64, {found[:_LONG]!r}..., which is not read: write them "
        "as files, or as bytes in Parquet."
    )


def shortened(path: str) -> str:
    """A path for people, of which little is left where it can be none."""
    return path if len(path) <= 500 else f"{path[:_LONG]}... ({len(path):,} characters)"


def with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def missing(path: str, folder: str) -> str:
    """What an image path that leads nowhere means, and what to do about it."""
    if os.path.isabs(path):
        place = f"{shortened(path)!r}. Write the paths of this machine"
        return f"{place}, or relative ones and `image_root=`."
    place = f"{shortened(joined(folder, path))!r}. Relative paths start at {folder!r}"
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
