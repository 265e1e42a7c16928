"""The few lengths that texts of a batch are cut to; a program is compiled for each."""

from typing import Any

import numpy as np
from jaxtyping import Int


# Lengths are multiples of this many tokens: few to compile, little to fill up.
_MULTIPLE = 8
# A training step takes long to compile, and the longest of its many texts is seldom shorter than
# the first of these; few captions that are longer than the second are much shorter than a context.
_TRAINING = (16, 48)


def used_lengths(tower: Any, tokens: Int[np.ndarray, "texts context"]) -> Int[np.ndarray, " texts"]:
    """How many tokens of each row a text tower's feature depends on: all where it does not say."""
    if hasattr(tower, "used_lengths"):
        return tower.used_lengths(tokens)
    return np.full(len(tokens), tokens.shape[1])


def text_length(used: int, context: int, *, training: bool = False) -> int:
    """The least length that holds `used` tokens: a multiple of 8, or the whole context.

    In training only 16, 24, 32, 40 and 48 are such multiples.
    """
    first, last = _TRAINING if training else (_MULTIPLE, context)
    lengths = range(first, min(last + 1, context), _MULTIPLE)
    return next((length for length in lengths if used <= length), context)
