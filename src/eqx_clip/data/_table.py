"""Tables of image paths and texts: CSV, tab-separated, Parquet, JSON lines."""

import contextlib
import csv
import errno
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from . import _csv, _jsonl, _parquet
from ._fields import key_path, text_of
from ._files import (
    File,
    ending,
    joined,
    read,
    simplified,
    sizes_here,
)
from ._index import logger
from ._parquet import TEXTS, strings, text_lists
from ._paths import (
    address_column,
    download_first,
    is_base64,
    is_on_the_web,
    missing,
    not_base64,
    root_of,
    shortened,
    with_slashes,
)
from ._shards import RootedSource
from ._source import Example


_HASHED = 8192  # rows at a time
_LOOKED_AT = 32  # images that are looked for when a table is opened
_FORMATS = {"csv": _csv, "tsv": _csv, "txt": _csv, "jsonl": _jsonl, "parquet": _parquet}


class TableSource(RootedSource):
    """Image paths and texts in the columns of a table, of one file or of several.

    Relative paths start at the folder of their file, or at `image_root`. Values are separated by
    commas, tabs, semicolons or bars, whichever gives the columns that are looked for. The table is
    read once and kept as an index outside the data (`EQX_CLIP_CACHE`), which all workers map. Texts
    stay as they are written: `NA`, `null` and `123` are texts. A list is several texts of one
    image. A null, and a key that a JSON object lacks, is no text.

    Raises `ValueError` for a table that is not whole or has not these columns, and
    `FileNotFoundError` where there is none.
    """

    image_keys = ("filepath", "image_path", "image", "file_name", "filename", "path", "jpg")
    text_keys = ("title", "caption", "text", "txt")
    file_name = re.compile(r".*\.(csv|tsv|jsonl|parquet)(\.gz)?", re.IGNORECASE)
    file_kind = "tables (`*.csv`, `*.tsv`, `*.jsonl`, `*.parquet`)"
    schema = pa.schema({"shard": pa.int32(), "image": pa.string(), "text": TEXTS})

    def _open(self) -> str:
        mark = super()._open()
        self._shards, self._images, self._texts = self._columns
        counts = np.bincount(self._shards.to_numpy(), minlength=len(self._files))
        self._first_rows = np.concatenate([[0], np.cumsum(counts)])
        self._slashes = False
        self._look_for_images()
        return mark

    def _look(self) -> None:
        wanted = (self.image_key, self.text_key) if self.image_key and self.text_key else ()
        wanted = wanted or (*self.image_keys, *self.text_keys, self.image_key, self.text_key)
        for file in self._files:
            if not is_table(file.name):
                names = ", ".join(f".{name}" for name in _FORMATS if name != "txt")
                raise ValueError(
                    f"{file.url} is no table: expected a file named {names}, or those .gz."
                )
        file = self._files[0]
        with _explained(file):
            names = _FORMATS[ending(file.name)].columns(file, wanted)
            self._find_columns(file, [*names, *self._later_names(names)])

    def _later_names(self, names: list[str]) -> list[str]:
        """The given keys of JSON lines that no object at the start has; `ValueError` for a field
        that no object has at all."""
        files = [file for file in self._files if ending(file.name) == "jsonl"]
        if not files or ending(self._files[0].name) != "jsonl":
            return []
        given = [key for key in (self.image_key, self.text_key) if key and key not in names]
        found = [key for key in given if any(_jsonl.has(file, key) for file in files)]
        for key in given:
            name, path = key_path(key)
            if key not in found and name in names:
                raise ValueError(
                    f"{self.path}: There is no field {path[-1]!r} in any object's {name!r}, as "
                    f"{key!r} asks for."
                )
        return found

    def _find_columns(self, file: File, names: list[str]) -> None:
        if not names:
            raise ValueError(f"{file.url} is empty: expected a table with an image and a text.")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            several = ", ".join(map(repr, twice))
            raise ValueError(f"{file.url} names several columns {several}. Rename all but one.")
        if any(map(is_on_the_web, names)):  # no header
            raise ValueError(download_first(file.url, names[-1]))
        if len(names) == 1 and ending(file.name) not in ("jsonl", "parquet"):
            raise ValueError(
                f"{file.url} has one column, {names[0]!r:.80}: expected a first line that names "
                "one of images and one of texts, between them a comma, a tab, `;` or `|`."
            )
        try:
            self._find_keys(names)
        except ValueError as error:
            if self.image_key is None and (column := address_column(names)):
                hint = (
                    f"If {column!r} are addresses on the web, download the images, by img2dataset."
                )
                raise ValueError(f"{error} {hint}") from error
            raise

    def _kept(self) -> list[str]:
        return [str(self.image_key), str(self.text_key)]

    def _indexed(self, file: File) -> dict[str, Any]:
        raise NotImplementedError("Tables are indexed by parts of a file.")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """The rows of all files, by threads where several files are far away."""
        rows, remote = 0, len(self._files) > 1 and "://" in self.path
        bar = tqdm(total=len(self._files), unit="file", desc="Indexing", delay=1)
        with bar, ThreadPoolExecutor(32 if remote else 1) as pool:
            shards = range(len(self._files))
            parts = pool.map(lambda k: list(self._rows(k)), shards) if remote else None
            try:
                for part in parts or map(self._rows, shards):
                    for batch in part:
                        yield batch
                        rows += len(batch)
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)
        if not rows:  # said here, an index of nothing is not kept
            raise ValueError(f"{self.path} has no rows below its header.")

    def _rows(self, shard: int) -> Iterator[pa.RecordBatch]:
        file, keys = self._files[shard], self._kept()
        with _explained(file):
            for batch in _FORMATS[ending(file.name)].batches(file, keys):
                image, text = (batch.column(key) for key in keys)
                shards = pa.array(np.full(len(batch), shard, np.int32))
                columns = [shards, strings(keys[0], image), text_lists(keys[1], text)]
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _look_for_images(self) -> None:
        """Says what to do where none of a few images, spread over the rows, is there.

        Those of the web and those in base64 raise `ValueError`. Backslashes in their paths are read
        as slashes if the images are found so, and only so.
        """
        rows = np.linspace(0, len(self) - 1, min(_LOOKED_AT, len(self))).astype(int).tolist()
        paths = {i: path for i in rows if (path := self._images[i].as_py())}
        if not paths:
            return
        first = next(iter(paths))
        if all(map(is_on_the_web, paths.values())):
            raise ValueError(download_first(self.path, paths[first]))
        if all(map(is_base64, paths.values())):
            raise ValueError(not_base64(self.path, paths[first]))
        slashed = [i for i, path in paths.items() if "\\" in path]
        if slashed and not self._is_any_there(slashed):
            self._slashes = True
            self._slashes = self._is_any_there(slashed)
        if self._slashes:
            words = "The paths of %s, %r for one, have backslashes: they are read as slashes."
            logger.warning(words, self.path, shortened(paths[slashed[0]]))
        if not self._is_any_there(paths):
            root = root_of(paths[first], self._folder(first))
            words = "None of %d images of %s that were looked for is there, the first of them %s%s"
            hint = "" if root is None else f" From {root!r} they would be there."
            place = missing(paths[first], self._folder(first))
            logger.warning(words, len(paths), self.path, place, hint)

    def _is_any_there(self, rows: Iterable[int]) -> bool:
        """Whether a row's image exists; one that is far away is taken to."""
        images = (str(self._image(i)) for i in rows)
        return any("://" in image or os.path.exists(image) for image in images)

    def _folder(self, i: int) -> str:
        """Where the relative paths of row `i` start."""
        return self.folder_of(self._files[self._shards[i].as_py()])

    def _is_remote(self) -> bool:
        return "://" in (self._image(0) or "")

    def where(self, i: int) -> str:
        shard = self._shards[i].as_py()
        row = i - int(self._first_rows[shard]) + 1
        image = self._image(i)
        return f"{self._files[shard].url}, row {row}: {shortened(image) if image else 'no image'}"

    def _image(self, i: int) -> str | None:
        """Where the image of a row lies, if the row names one."""
        path = self._images[i].as_py()
        if not path:
            return None
        return joined(self._folder(i), with_slashes(path) if self._slashes else path)

    def text(self, i: int) -> str | list[str] | None:
        return text_of(self._texts[i].as_py())

    def image_name(self, i: int) -> str | None:
        image = self._image(i)
        return None if image is None else simplified(image)

    def stored(self, rows: range) -> Iterator[Any]:
        """The images' paths as they stand in the table, their sizes where they lie here, texts."""
        with tqdm(total=len(rows), unit="row", desc="Fingerprint", delay=1) as bar:
            for start in range(rows.start, rows.stop, _HASHED):
                block = range(start, min(start + _HASHED, rows.stop))
                yield sizes_here([self._image(i) for i in block])
                for column in (self._images, self._texts):
                    yield column[block.start : block.stop].to_pylist()
                bar.update(len(block))

    def _read(self, i: int) -> Example:
        image = self._image(i)
        if image is None:
            raise ValueError(f"The row has no {self.image_key!r}, the path of its image.")
        try:
            data = read(image)
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) or error.errno == errno.ENAMETOOLONG):
                raise
            path = self._images[i].as_py()
            if is_base64(path):
                raise ValueError(not_base64(self.path, path)) from error
            words = missing(path, self._folder(i))
            raise FileNotFoundError(f"There is no image {words}") from error
        return {"image": data, "text": self.text(i)}


def is_table(name: str) -> bool:
    return ending(name) in _FORMATS


@contextlib.contextmanager
def _explained(file: File) -> Iterator[None]:
    try:
        yield
    except pa.ArrowKeyError as error:
        raise ValueError(f"{file.url}: {error}") from error
    except _UNREADABLE as error:
        raise ValueError(f"{file.url} cannot be read as a table in UTF-8. {error}") from error


# What the readers raise for a file that is not whole, or is something else.
_UNREADABLE = (
    *(pa.ArrowException, csv.Error, UnicodeDecodeError),
    *(EOFError, gzip.BadGzipFile, zlib.error),
)
