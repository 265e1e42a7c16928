"""Folders of images beside their texts: `0001.jpg` and `0001.txt`."""

import functools
import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from .._types import PathLike
from ._fields import key_path, keys_with_extension, several, text_in
from ._files import (
    Entry,
    contents,
    digest,
    joined,
    listed,
    read,
    size_here,
    sizes_here,
    walk,
)
from ._index import cached, logger
from ._source import Example, FileSource, log_keys


METADATA = re.compile(r"metadata\.(csv|jsonl|parquet)")  # of a folder of images, Hugging Face's
EXPECTED = (
    "a table (.csv, .tsv, .jsonl, .parquet) or a folder of tables, TFRecord files (.tfrecord), "
    "WebDataset shards (.tar), a folder of images beside their texts, or one prepared by TFDS"
)
_SHARDS = ("csv", "tsv", "jsonl", "parquet", "tar", "tfrecord")  # of tables and shards
_ROWS = 8192  # at a time
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # with which some editors begin a text


class FolderSource(FileSource):
    """Images in a folder, at any depth, each beside a text of the same name: `0001.txt`.

    What img2dataset writes with `--output_format files` is one. `image_key` and `text_key` are
    extensions, or several with semicolons between them; by default all that Pillow reads, and
    `txt`. A text in a JSON file is a field of it, `json:caption`, or the first that has one of
    several (`json:caption;json:title`). An image without a text has none.
    The line end that closes a text file is no part of the text.

    The texts are read once and kept as an index outside the data (`EQX_CLIP_CACHE`), by the names
    of images and texts and by the texts' sizes and times. Workers map it, and list nothing.

    Raises `ValueError` for a folder without images or without texts, for two images of one name,
    and for a folder below that has metadata in place of texts.
    """

    text_keys = ("txt",)
    schema = pa.schema({"image": pa.string(), "text": pa.string(), "content": pa.binary()})

    def __init__(
        self,
        path: PathLike,
        image_key: str | None = None,
        text_key: str | None = None,
        mark: str | None = None,
    ):
        self._known = mark  # of an index that may be there
        super().__init__(path, image_key, text_key)

    def _arguments(self) -> tuple[Any, ...]:
        return *super()._arguments(), self.mark

    def _open(self) -> str:
        keys = several(self.text_key, self.text_keys)
        if "json" in keys:
            raise ValueError(
                "The key 'json' is a whole JSON file, not a text: name a field of it, such as "
                "'json:caption'."
            )
        self._keys = {key_path(key)[0]: keys_with_extension(key, keys) for key in keys}
        rows, mark = ([], self._known) if self._known else self._find()
        self._images, self._texts, self._contents = cached(mark, self.schema, self._batches(rows))
        return mark

    def _find(self) -> tuple[list[tuple[str, str | None]], str]:
        """The images and their texts, as sorted paths below the folder, and a mark of them."""
        images, texts = several(self.image_key, _image_suffixes()), tuple(self._keys)
        pairs, content = [], hashlib.sha256()
        for folder, files in walk(self.path):
            found, facts = _pairs(joined(self.path, folder), files, set(images), texts)
            pairs += [tuple(name and folder + name for name in pair) for pair in found]
            content.update(repr((folder, found, facts)).encode(errors="surrogatepass"))
        rows = sorted((image, text) for image, text in pairs if image is not None)
        if not any(text for _, text in rows):
            raise ValueError(_problem(self.path, len(rows), texts))
        alone = [str(text) for image, text in pairs if image is None]
        if alone:
            words = "%s: %d texts have no image beside them: %s."
            logger.warning(words, self.path, len(alone), listed(alone))
        if self.image_key is None or self.text_key is None:
            suffixes = dict.fromkeys(_suffix(image) for image, _ in rows)
            keys = itertools.chain.from_iterable(self._keys.values())
            log_keys(self.path, ";".join(suffixes), ";".join(keys))
        return rows, digest("folder", content.hexdigest())

    def _batches(self, rows: Sequence[tuple[str, str | None]]) -> Iterator[pa.RecordBatch]:
        """The index. Texts are kept as bytes: one that is damaged counts when it is asked for."""
        if not rows:  # it was there when the source was opened elsewhere
            rows, mark = self._find()
            if mark != self._known:
                raise ValueError(f"{self.path} has changed since it was opened. Open it again.")
        bar = tqdm(total=len(rows), unit="text", desc="Indexing", delay=1)
        with bar, ThreadPoolExecutor(32 if "://" in self.path else 4) as pool:
            for start in range(0, len(rows), _ROWS):
                images, texts = zip(*rows[start : start + _ROWS], strict=True)
                parts = [texts[k : k + 64] for k in range(0, len(texts), 64)]
                contents = [data for part in pool.map(self._read_all, parts) for data in part]
                columns = zip((images, texts, contents), self.schema.types, strict=True)
                arrays = [pa.array(values, kind) for values, kind in columns]
                yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
                bar.update(len(images))

    def _read_all(self, paths: Sequence[str | None]) -> list[bytes | None]:
        return [None if path is None else read(joined(self.path, path)) for path in paths]

    def __len__(self) -> int:
        return len(self._images)

    def where(self, i: int) -> str:
        return joined(self.path, self._images[i].as_py())

    def image_size(self, i: int) -> int | None:
        return size_here(self.where(i))

    def text(self, i: int) -> str | list[str] | None:
        path, content = self._texts[i].as_py(), self._contents[i].as_py()
        if path is None:
            return None
        keys = self._keys[_suffix(path)]
        text = text_in(content.removeprefix(_BYTE_ORDER_MARK), keys, joined(self.path, path))
        return text.rstrip("\r\n") if isinstance(text, str) and ":" not in keys[0] else text

    def stored(self, rows: range) -> Iterator[Any]:
        """The names of the images, their sizes where they lie here, and what the texts hold."""
        for start in range(rows.start, rows.stop, _ROWS):
            block = slice(start, min(start + _ROWS, rows.stop))
            images = self._images[block].to_pylist()
            yield images, sizes_here([joined(self.path, image) for image in images])
            yield self._contents[block].to_pylist()

    def _read(self, i: int) -> Example:
        return {"image": read(self.where(i)), "text": self.text(i)}


def _pairs(
    url: str, files: Sequence[Entry], images: Collection[str], texts: Sequence[str]
) -> tuple[list[tuple[str | None, str | None]], list[Any]]:
    """The names of the images in a folder and of the text beside each, by their suffixes.

    A text without an image is a pair, too. Beside them, what changes with the texts.
    """
    stems: dict[str, dict[str, Entry]] = defaultdict(dict)
    for file in files:
        stem, _, suffix = file.name.rpartition(".")
        suffix = suffix.lower()
        if METADATA.fullmatch(file.name):
            raise ValueError(
                f"{joined(url, file.name)} lies among folders of images and may say their texts: "
                f"open {url} by itself to read it."
            )
        if stem and (suffix in images or suffix in texts):
            same = stems[stem]
            _refuse_two(url, [*filter(None, [same.get(suffix)]), file])
            same[suffix] = file
    pairs, facts = [], []
    for same in stems.values():
        of_image = [same[suffix] for suffix in same if suffix in images]
        _refuse_two(url, of_image)
        text = next((same[suffix] for suffix in texts if suffix in same), None)
        pairs.append((of_image[0].name if of_image else None, text and text.name))
        facts.append(text and text.facts())
    return pairs, facts


def _refuse_two(url: str, files: Sequence[Entry]) -> None:
    if len(files) > 1:
        raise ValueError(
            f"{url} has {listed(sorted(file.name for file in files))} beside each other: say by "
            "`image_key=` which extension the images have."
        )


def _problem(path: str, count: int, texts: Sequence[str]) -> str:
    """Why a folder is not one of images and texts, with what was found in their place."""
    found = Counter(_suffix(file.name) for _, files in walk(path) for file in files)
    suffixes = ", ".join(f"{number:,} '.{suffix}'" for suffix, number in found.most_common(5))
    expected = ", ".join(f"'.{suffix}'" for suffix in texts)
    problem = (
        f"{path} is no kind of data set: expected {EXPECTED}; found {contents(path)}, in all "
        f"{suffixes or 'no files'}."
    )
    if below := _data_below(path):
        problem = f"{problem} There are data further down: open {below}."
    if not count:
        return problem
    return (
        f"{problem} None of the {count:,} images has a text of its name ({expected}) beside it. "
        "Folders of classes are for zero-shot accuracy: `open_classes`. A table is opened by its "
        "own path, with `image_root=`; texts of another extension are named by `text_key=`."
    )


def _data_below(path: str) -> str | None:
    """The first folder below that holds a table or shards, as repositories of data sets have."""
    for folder, files in walk(path):
        if any(_suffix(file.name) in _SHARDS for file in files):
            return joined(path, folder).rstrip("/")
    return None


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].removeprefix(".").lower()


def is_image(name: str) -> bool:
    """Whether a file is an image that Pillow reads, by its name."""
    return _suffix(name) in _image_suffixes()


def texts_beside_images(names: Sequence[str]) -> list[str]:
    """The names of texts that lie beside an image, of all names in a folder."""
    images = {os.path.splitext(name)[0] for name in names if is_image(name)}
    stems = ((name, os.path.splitext(name)[0]) for name in names if _suffix(name) == "txt")
    return [name for name, stem in stems if stem in images]


@functools.cache
def _image_suffixes() -> tuple[str, ...]:
    """The extensions of what Pillow reads."""
    Image.init()
    found = (end for end, name in Image.registered_extensions().items() if name in Image.OPEN)
    return tuple(end.removeprefix(".") for end in found)
