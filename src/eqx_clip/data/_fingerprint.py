"""Whether a source is still the data that it was."""

import hashlib
from typing import Any

import numpy as np

from ..images.decode import to_rgb
from ._files import digest
from ._source import stored


_READ = 16  # examples


def fingerprint(source: Any) -> str:
    """How many examples a source has, and a hash of what is stored of each but its pixels.

    Hashed are, of a table, every row's texts, the path of its image as it stands there, and the
    size of the image's file where that lies here; of TFRecord files every record's size and stored
    checksum, which is of its pixels, too; of tar files every sample's name, the size of its image
    and a checksum of its text; of TFDS's ArrayRecord files their names and sizes. The pixels of
    other images than 16, evenly spread over the data, are not hashed, nor are times of files: a
    copy of the data, on another host of a run too, has the same fingerprint.

    A run that goes on compares it, so as not to go on with another column, another data set, or
    rows that were changed, added, removed or sorted. Of a sequence that is no source of this
    library only the number and the 16 are seen. What cannot be read counts as empty.
    """
    count = len(source)
    content = hashlib.sha256()
    for facts in stored(source, range(count)):
        content.update(repr(facts).encode(errors="surrogatepass"))
    rows = np.linspace(0, count - 1, min(_READ, count)).astype(int).tolist()
    read = (_content(source, i) for i in rows)
    return f"{count:,} examples, {digest(content.hexdigest(), *read)[:16]}"


def _content(source: Any, i: int) -> tuple[str, Any]:
    try:
        example = source[i]
        image, text = example["image"], example["text"]
        data = image if isinstance(image, bytes) else to_rgb(image).tobytes()
    except (OSError, ValueError):
        data, text = b"", ""
    return hashlib.sha256(data).hexdigest(), text
