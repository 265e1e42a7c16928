"""Each caption of a source with its image, for evaluation."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from ._source import AbstractSource, Example, image_name, is_remote, text_at, where


_THREADS = 32  # that wait for a network


class Pairs(AbstractSource):
    """Every (image, caption) pair of a source as an example, and which pairs share an image.

    An example with several texts is as many pairs, in the order of the texts. `groups` is an
    integer for each pair, (pairs,), the number of its image in the order of first appearance: the
    same for the texts of one example, and for rows of a table that name the same image. It is what
    `eqx_clip.train.retrieval_metrics` and `validate` take.

    Texts are read once, when this is made: of tables and tar files without the images.
    """

    def __init__(self, source: Any):
        self.source = source
        self.remote = is_remote(source)
        rows: list[int] = []
        parts: list[int | None] = []
        images: list[Any] = []
        for i, text in enumerate(_texts(source)):
            count = len(text) if isinstance(text, list) else 1
            rows += [i] * count
            parts += range(count) if isinstance(text, list) else [None]
            images += [image_name(source, i) or i] * count
        self._rows, self._parts = np.array(rows, np.int64), parts
        numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
        self.groups: Int64[np.ndarray, " pairs"] = np.array([numbers[k] for k in images], np.int64)

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


def _texts(source: Any) -> list[Any]:
    """The text of each example; None where it cannot be read, which whoever reads it is told."""

    def text(i: int) -> Any:
        try:
            return text_at(source, i)
        except (OSError, ValueError):
            return None

    numbers = tqdm(range(len(source)), unit="text", desc="Captions", delay=1)
    if not is_remote(source):
        return [text(i) for i in numbers]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(text, numbers))
