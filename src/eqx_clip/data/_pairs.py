"""Each caption of a source with its image, for evaluation."""

import collections
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from ..images.decode import to_rgb
from ._captions import places
from ._source import AbstractSource, Example, image_name, image_size, is_remote, text_at, where


_THREADS = 32  # that wait for a network

# What examples of one image have in common: its file, or the size and the digest of its bytes; the
# number of an example whose image is seen to be no other's, or cannot be read.
Image = str | tuple[int, bytes | None] | int


class Pairs(AbstractSource):
    """Every (image, caption) pair of a source as an example, and which pairs share an image.

    An example with several texts is as many pairs, in the order of the texts; empty ones among
    others are left out, as training does. `groups` is an integer for each pair, (pairs,), the
    number of its image in the order of first appearance: the same for the texts of one example,
    and for examples of one image. It is what `eqx_clip.train.retrieval_metrics` and `validate`
    take.

    Images that are files which examples name, as in tables, are the same where the file is. Others
    (in Parquet, tar and TFRecord files, in folders beside their texts, in what TFDS prepared and in
    your own sequences) are the same where their bytes are, by a SHA-256 digest; PIL images and
    arrays where their pixels are. A file that is named and the same image inside of another
    container are two.

    This is made in one pass over the texts. Images are read then too, where their texts do not lie
    apart; otherwise only those of which another has the same size. A bar says how far that is.

    **Arguments:**

    - `source`: what `open_source` gives, or any sequence of `{"image": ..., "text": ...}`.
    - `empty_captions`: whether empty texts are captions, as for `batches`.
    """

    def __init__(self, source: Any, *, empty_captions: bool = False):
        self.source = source
        self.remote = is_remote(source)
        texts, images = _texts_and_images(source)
        found = [places(text, empty=empty_captions) for text in texts]
        counts = [len(parts) for parts in found]
        self._rows: Int64[np.ndarray, " pairs"] = np.repeat(np.arange(len(found)), counts)
        self._parts: list[int | None] = [part for parts in found for part in parts]
        numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
        groups = np.array([numbers[image] for image in images], np.int64)
        self.groups: Int64[np.ndarray, " pairs"] = np.repeat(groups, counts)

    @property
    def num_images(self) -> int:
        return int(self.groups.max()) + 1

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, i: int) -> str:
        return where(self.source, int(self._rows[i]))

    def _read(self, i: int) -> Example:
        example, part = self.source[int(self._rows[i])], self._parts[i]
        if part is None:
            return example
        return {"image": example["image"], "text": example["text"][part]}

    def __repr__(self) -> str:
        return f"Pairs({self.source!r}, {len(self)} captions of {self.num_images} images)"


def _texts_and_images(source: Any) -> tuple[list[Any], list[Image]]:
    """The text and the image of each example. Where one cannot be read, the text is None and the
    image no other's: whoever reads it is told."""

    def look(i: int) -> tuple[Any, Image]:
        try:
            name, size = image_name(source, i), image_size(source, i)
            if name is None and size is None:
                example = source[i]
                return example["text"], _digested(example["image"])
            return text_at(source, i), name or (size or 0, None)
        except (OSError, ValueError):
            return None, i

    def read(i: int) -> Image:
        try:
            return _digested(source[i]["image"])
        except (OSError, ValueError):
            return i

    seen = _mapped(source, look, range(len(source)), "Captions")
    texts, images = [text for text, _ in seen], [image for _, image in seen]
    sizes = collections.Counter(image[0] for image in images if isinstance(image, tuple))
    alike = [
        i
        for i, image in enumerate(images)
        if isinstance(image, tuple) and image[1] is None and sizes[image[0]] > 1
    ]
    for i, image in zip(alike, _mapped(source, read, alike, "Images"), strict=True):
        images[i] = image
    return texts, images


def _digested(image: Any) -> Image:
    data = image if isinstance(image, bytes) else to_rgb(image).tobytes()
    return len(data), hashlib.sha256(data).digest()


def _mapped(source: Any, function: Callable[[int], Any], rows: Sequence[int], title: str) -> list:
    """What a function gives for each row, by threads where that waits for a network."""
    with ThreadPoolExecutor(_THREADS) as pool:  # starts no thread that has nothing to do
        found = (pool.map if is_remote(source) else map)(function, rows)
        return list(tqdm(found, total=len(rows), desc=title, unit="row", delay=1))
