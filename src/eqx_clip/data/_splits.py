"""Whether the files of a folder are several splits, by the words in their paths."""

import posixpath
import re
from collections.abc import Sequence

from ._files import joined, listed


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
    splits: dict[str, tuple[str, str]] = {}
    for path in paths:
        words = [word for word in re.findall("[a-z]+", path.lower()) if word in _SPLITS]
        if words:
            splits.setdefault(_SPLITS[words[-1]], (path, words[-1]))
    if len(splits) > 1:
        found = [path for path, _ in splits.values()]
        raise ValueError(
            f"{url} holds several splits, {listed(found)}: "
            f"{_remedy(url, *next(iter(splits.values())))} A list takes all."
        )


def _remedy(url: str, path: str, word: str) -> str:
    """How to open one split alone, of which a file was found by this word in its path."""
    folder, name = posixpath.split(path)
    if word not in name.lower():
        return f"open the folder of one, such as {joined(url, folder)}."
    start = name.lower().index(word)
    pattern = f"*{name[start : start + len(word)]}*{posixpath.splitext(name)[1]}"
    return f"name the files of one by a pattern, such as {joined(joined(url, folder), pattern)}."
