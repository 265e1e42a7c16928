"""What of an example's texts is a caption, and which of several an epoch draws."""

from typing import Any

import numpy as np


class MissingCaptionError(ValueError):
    """An example has no caption."""


def captions(text: Any, *, empty: bool = False) -> list[str]:
    """The captions of an example by its `"text"`: a string, a list of them, or None.

    Strings of nothing but space are captions only with `empty`. Raises `MissingCaptionError` where
    none is left, and `ValueError` for a text that is no string.
    """
    texts = text if isinstance(text, list | tuple) else [text]
    found = [one for one in texts if one is not None]
    for one in found:
        if not isinstance(one, str):
            raise ValueError(
                "A text must be a string, a list of strings, or None where there is none; got "
                f"{type(one).__name__}."
            )
    kept = [one for one in found if not _is_missing(one, empty=empty)]
    if not kept:
        empties = f" but {len(found)} empty; `empty_captions=True` takes those" if found else ""
        raise MissingCaptionError(f"The example has no caption{empties}.")
    return kept


def places(text: Any, *, empty: bool = False) -> list[int | None]:
    """Which of an example's texts are captions, by their places in its list; [None] for a text
    that is no list, and for a list without a caption, which whoever asks for it is told."""
    if not isinstance(text, list | tuple):
        return [None]
    kept = [k for k, one in enumerate(text) if not _is_missing(one, empty=empty)]
    return [*kept] or [None]


def _is_missing(text: Any, *, empty: bool) -> bool:
    return text is None or (not empty and isinstance(text, str) and not text.strip())


def drawn(texts: list[str], seed: int, epoch: int, index: int) -> str:
    """One of several captions, by a generator of its own: crops do not depend on it."""
    if len(texts) == 1:
        return texts[0]
    return texts[int(np.random.default_rng((seed, epoch, index, 2)).integers(len(texts)))]
