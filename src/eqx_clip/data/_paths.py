"""Paths as people write them: of images in tables, of the files of several splits."""

import fnmatch
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._types import PathLike
from ._files import is_folder, joined, listed, normalized


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


# Words in the names of files and folders that say what they are for.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def check_splits(url: str, paths: Sequence[str]) -> None:
    """Raises `ValueError` for files of which some are for training and others for evaluation.

    Of several such words in a path the last one counts: `my_test_of_train.csv` is for training.
    `paths` start at the folder `url`.
    """
    found = {path: word for path in paths if (word := _last_word(path))}
    firsts = {_SPLITS[word]: path for path, word in reversed(found.items())}
    if len(firsts) > 1:
        raise ValueError(
            f"{url} holds several splits, {listed(sorted(firsts.values()))}: {_remedy(url, found)} "
            "A list takes all."
        )


def _last_word(path: str) -> str | None:
    words = [word for word in re.findall("[a-z]+", path.lower()) if word in _SPLITS]
    return words[-1] if words else None


def _remedy(url: str, found: dict[str, str]) -> str:
    """How to open one split alone, of files by the words that say theirs."""
    for path, word in found.items():
        folder, name = posixpath.split(path)
        if word not in name.lower():
            return f"open the folder of one, such as {joined(url, folder)}."
        start = name.lower().index(word)
        pattern = f"*{name[start : start + len(word)]}*{posixpath.splitext(name)[1]}"
        pattern = posixpath.join(folder, pattern)
        others = [one for one, other in found.items() if _SPLITS[other] != _SPLITS[word]]
        if not fnmatch.filter(others, pattern):
            return f"name the files of one by a pattern, such as {joined(url, pattern)}."
    return "name the files of one in a list."
