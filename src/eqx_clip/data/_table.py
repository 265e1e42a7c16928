"""Tables of image paths and texts: CSV, tab-separated, Parquet, JSON lines."""

import csv
import functools
import gzip
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from . import _csv, _jsonl, _parquet
from ._files import digest, ending, joined, look_at, parent, read
from ._index import cached
from ._source import Example, FileSource, text_of


_HASHED = 8192  # rows at a time
_FORMATS = {"csv": _csv, "tsv": _csv, "jsonl": _jsonl, "parquet": _parquet}
_SCHEMA = pa.schema({"image": pa.string(), "text": pa.list_(pa.string())})


class TableSource(FileSource):
    """Image paths and texts in the columns of one table; relative paths start at its folder.

    The table is read once and kept as an index outside the data (`EQX_CLIP_CACHE`), which all
    workers map. Texts stay as they are written: `NA`, `null` and `123` are texts. A list is several
    texts of one image. A null, and a key that a JSON object lacks, is no text.

    Raises `ValueError` for a table that is not whole or has not these columns, and
    `FileNotFoundError` where there is none.
    """

    image_keys = ("filepath", "image_path", "image", "file_name", "filename", "path", "jpg")
    text_keys = ("title", "caption", "text", "txt")

    def _open(self) -> str:
        file = look_at(self.path)
        if not is_table(file.name):
            names = ", ".join(f".{name}" for name in _FORMATS)
            raise ValueError(
                f"{self.path} is no table: expected a file named {names}, or those .gz."
            )
        table = _FORMATS[ending(file.name)]
        try:
            self._find_columns(table.columns(file))
            keys = [str(self.image_key), str(self.text_key)]
            mark = digest("table", file, keys)
            batches = _indexed(table.batches(file, keys), keys)
            self._images, self._texts = cached(mark, _SCHEMA, batches)
        except _UNREADABLE as error:
            raise ValueError(f"{self.path} cannot be read as a table in UTF-8. {error}") from error
        if not len(self):
            raise ValueError(f"{self.path} has no rows below its header.")
        return mark

    def _find_columns(self, names: list[str]) -> None:
        if not names:
            raise ValueError(f"{self.path} is empty: expected a table with an image and a text.")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            several = ", ".join(map(repr, twice))
            raise ValueError(f"{self.path} names several columns {several}. Rename all but one.")
        self._find_keys(names)

    def __len__(self) -> int:
        return len(self._images)

    def _is_remote(self) -> bool:
        return "://" in (self._image(0) or "")

    def where(self, i: int) -> str:
        return f"{self.path}, row {i + 1}: {self._image(i) or 'no image'}"

    def _image(self, i: int) -> str | None:
        """Where the image of a row lies, if the row names one."""
        path = self._images[i].as_py()
        return joined(parent(self.path), path) if path else None

    def text(self, i: int) -> str | list[str] | None:
        return text_of(self._texts[i].as_py())

    def image_name(self, i: int) -> str | None:
        return self._image(i)

    def stored(self, rows: range) -> Iterator[Any]:
        """The images' paths as they stand in the table, their sizes where they lie here, texts."""
        folder = parent(self.path)
        bar = tqdm(total=len(rows), unit="row", desc="Fingerprint", delay=1)
        with bar, ThreadPoolExecutor() as pool:
            for start in range(rows.start, rows.stop, _HASHED):
                block = slice(start, min(start + _HASHED, rows.stop))
                images = self._images[block].to_pylist()
                size = functools.partial(_size, folder)
                sizes = pool.map(size, images, chunksize=64)
                yield images, list(sizes), self._texts[block].to_pylist()
                bar.update(len(images))

    def _read(self, i: int) -> Example:
        image = self._image(i)
        if image is None:
            raise ValueError(f"The row has no {self.image_key!r}, the path of its image.")
        return {"image": read(image), "text": self.text(i)}


def _size(folder: str, image: str | None) -> int | None:
    """Bytes of an image file; None where there is none, and for one that lies far away."""
    path = joined(folder, image or "")
    try:
        return None if "://" in path else os.stat(path).st_size
    except (OSError, ValueError):  # which whoever reads it is told
        return None


def is_table(name: str) -> bool:
    return ending(name) in _FORMATS


def _indexed(batches: Iterator[pa.RecordBatch], keys: list[str]) -> Iterator[pa.RecordBatch]:
    """The two columns, as the index has them."""
    for batch in batches:
        image, text = (batch.column(key) for key in keys)
        columns = [_strings(keys[0], image), _lists(keys[1], text)]
        yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _strings(key: str, column: pa.Array) -> pa.Array:
    if not (pa.types.is_null(column.type) or _is_text(column.type)):
        hint = f" Name a field of it: '{key}:field'." if pa.types.is_struct(column.type) else ""
        raise pa.ArrowTypeError(f"Column {key!r} must hold text; it holds {column.type}.{hint}")
    text = column.cast(pa.string())
    text.validate(full=True)  # nobody else looks whether it is UTF-8
    return text


def _lists(key: str, column: pa.Array) -> pa.Array:
    """A list of texts for each row, of one where the column holds text itself; null for null."""
    if _is_list(column.type):
        return column.cast(_SCHEMA.field("text").type)
    texts = _strings(key, column)
    ends = np.cumsum(texts.is_valid().to_numpy(zero_copy_only=False))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    return pa.ListArray.from_arrays(offsets, texts.drop_null(), mask=texts.is_null())


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (is_list or pa.types.is_fixed_size_list(kind)) and _is_text(kind.value_type)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


# What the readers raise for a file that is not whole, or is something else.
_UNREADABLE = (
    *(pa.ArrowException, csv.Error, UnicodeDecodeError),
    *(EOFError, gzip.BadGzipFile, zlib.error),
)
