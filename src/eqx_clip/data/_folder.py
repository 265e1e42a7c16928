"""Folders of images beside their texts: `0001.jpg` and `0001.txt`."""

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from PIL import Image

from ._fields import key_path, several, text_in
from ._files import digest, joined, listed, read, walk
from ._source import Example, FileSource, log_keys


class FolderSource(FileSource):
    """Images in a folder, at any depth, each beside a text of the same name: `0001.txt`.

    What img2dataset writes with `--output_format files` is one. `image_key` and `text_key` are
    extensions, or several with semicolons between them; by default all that Pillow reads, and
    `txt`. A text in a JSON file is a field of it, `json:caption`. An image without a text has none.

    Raises `ValueError` for a folder without images or texts, and for two images of one name.
    """

    text_keys = ("txt",)

    def _open(self) -> str:
        suffixes = several(self.image_key, _image_suffixes())
        text_keys = several(self.text_key, self.text_keys)
        names: dict[str, dict[str, str]] = defaultdict(dict)
        for path in walk(self.path):
            stem, dot = os.path.splitext(path)
            names[stem][dot.removeprefix(".").lower()] = path
        self._rows = []
        for files in names.values():
            images = [files[suffix] for suffix in suffixes if suffix in files]
            key = next((key for key in text_keys if key_path(key)[0] in files), None)
            if len(images) > 1:
                raise ValueError(
                    f"{self.path} has {listed(sorted(images))} beside each other: say by "
                    "`image_key=` which extension the images have."
                )
            if images:
                self._rows.append((images[0], files[key_path(key)[0]] if key else None, key))
        self._check(names, text_keys)
        if self.image_key is None or self.text_key is None:
            found = dict.fromkeys(os.path.splitext(image)[1][1:] for image, _, _ in self._rows)
            log_keys(self.path, ";".join(found), ";".join(text_keys))
        return digest("folder", self._rows)

    def _check(self, names: dict[str, dict[str, str]], text_keys: tuple[str, ...]) -> None:
        whole = [key for key in text_keys if key == "json"]
        if whole:
            raise ValueError(
                "The key 'json' is a whole JSON file, not a text: name a field of it, such as "
                "'json:caption'."
            )
        if any(text for _, text, _ in self._rows):
            return
        files = listed([path for files in names.values() for path in files.values()]) or "nothing"
        raise ValueError(
            f"{self.path} is no kind of data set: expected a table (.csv, .tsv, .jsonl, .parquet), "
            "TFRecord files (.tfrecord), WebDataset shards (.tar), a folder prepared by TFDS, or "
            f"images beside their texts ({', '.join(f'.{key}' for key in text_keys)}); found "
            f"{files}, {len(self._rows)} images. A table elsewhere is opened by its own path, with "
            "`image_root=`; folders of classes are for `open_classes`."
        )

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, i: int) -> str:
        return joined(self.path, self._rows[i][0])

    def text(self, i: int) -> str | list[str] | None:
        _, text, key = self._rows[i]
        return None if text is None else text_in(read(joined(self.path, text)), str(key))

    def stored(self, rows: range) -> Iterator[Any]:
        """The names of the images, their sizes where they lie here, and the texts."""
        for i in rows:
            path = self.where(i)
            try:
                size = None if "://" in path else os.stat(path).st_size
                yield self._rows[i], size, self.text(i)
            except (OSError, ValueError):  # which whoever reads it is told
                yield self._rows[i]

    def _read(self, i: int) -> Example:
        return {"image": read(self.where(i)), "text": self.text(i)}


def _image_suffixes() -> tuple[str, ...]:
    """The extensions of what Pillow reads."""
    Image.init()
    found = (end for end, name in Image.registered_extensions().items() if name in Image.OPEN)
    return tuple(end.removeprefix(".") for end in found)
