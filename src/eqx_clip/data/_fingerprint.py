"""Whether a source is still the data that it was."""

import hashlib
from typing import Any

import numpy as np

from .._image import to_rgb
from ._files import digest


_READ = 16  # examples


def fingerprint(source: Any) -> str:
    """How many examples a source has, and a hash of 16 of them, wherever they are stored.

    The 16 are evenly spread, the first and the last among them. A run that goes on compares it, so
    as not to go on with another column, another data set, or rows that were added, removed or
    sorted. A change of other examples, it does not see. What cannot be read counts as empty.
    """
    count = len(source)
    rows = np.linspace(0, count - 1, min(_READ, count)).astype(int).tolist()
    return f"{count:,} examples, {digest(*(_content(source, i) for i in rows))[:16]}"


def _content(source: Any, i: int) -> tuple[str, str]:
    try:
        example = source[i]
        image, text = example["image"], example["text"]
        data = image if isinstance(image, bytes) else to_rgb(image).tobytes()
    except (OSError, ValueError):
        data, text = b"", ""
    return hashlib.sha256(data).hexdigest(), text
