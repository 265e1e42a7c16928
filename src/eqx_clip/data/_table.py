"""Tables of image paths and texts: CSV, tab-separated, Parquet, JSON lines."""

import contextlib
import csv
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from .._types import PathLike
from . import _csv, _jsonl, _parquet
from ._fields import text_of
from ._files import File, ending, joined, normalized, parent, read
from ._index import logger
from ._shards import ShardedSource
from ._source import Example


_HASHED = 8192  # rows at a time
_LOOKED_AT = 16  # images that are looked for when a table is opened
_FORMATS = {"csv": _csv, "tsv": _csv, "txt": _csv, "jsonl": _jsonl, "parquet": _parquet}
_TEXTS = pa.list_(pa.string())


class TableSource(ShardedSource):
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
    schema = pa.schema({"shard": pa.int32(), "image": pa.string(), "text": _TEXTS})

    def __init__(
        self,
        path: PathLike,
        image_key: str | None = None,
        text_key: str | None = None,
        image_root: PathLike | None = None,
    ):
        self.image_root = None if image_root is None else normalized(image_root)
        super().__init__(path, image_key, text_key)

    def _arguments(self) -> tuple[Any, ...]:
        return *super()._arguments(), self.image_root

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
            self._find_columns(file, _FORMATS[ending(file.name)].columns(file, wanted))

    def _find_columns(self, file: File, names: list[str]) -> None:
        if not names:
            raise ValueError(f"{file.url} is empty: expected a table with an image and a text.")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            several = ", ".join(map(repr, twice))
            raise ValueError(f"{file.url} names several columns {several}. Rename all but one.")
        self._find_keys(names)

    def _kept(self) -> list[str]:
        return [str(self.image_key), str(self.text_key)]

    def _indexed(self, file: File) -> dict[str, Any]:
        raise NotImplementedError("Tables are indexed by parts of a file.")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        rows, keys = 0, self._kept()
        for shard, file in enumerate(tqdm(self._files, unit="file", desc="Indexing", delay=1)):
            with _explained(file):
                for batch in _FORMATS[ending(file.name)].batches(file, keys):
                    image, text = (batch.column(key) for key in keys)
                    shards = pa.array(np.full(len(batch), shard, np.int32))
                    columns = [shards, _strings(keys[0], image), text_lists(keys[1], text)]
                    yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
                    rows += len(batch)
        if not rows:  # said here, an index of nothing is not kept
            raise ValueError(f"{self.path} has no rows below its header.")

    def _look_for_images(self) -> None:
        """Says what to do where the first images are not there, and refuses those of the web."""
        paths = [path for path in self._images[:_LOOKED_AT].to_pylist() if path]
        if paths and re.match("https?://", paths[0], re.IGNORECASE):
            raise ValueError(
                f"The images of {self.path} are on the web, {paths[0]!r}: download them first, for "
                "instance by img2dataset, and open what it writes."
            )
        folder = self._folder(0)
        if not paths or "://" in folder or any(_is_there(folder, path) for path in paths):
            return
        self._slashes = any(_is_there(folder, _with_slashes(path)) for path in paths)
        if self._slashes:
            logger.warning(
                "The paths of %s, %r for one, have backslashes: they are read as slashes.",
                *(self.path, paths[0]),
            )
        elif not any("://" in path for path in paths):
            logger.warning("None of the first images is there: %s", self._hint(folder, paths[0]))

    def _hint(self, folder: str, path: str) -> str:
        """Where an image was looked for, and what to do."""
        root = "another folder"
        if os.path.exists(path):
            root = f"the working directory, {os.getcwd()!r}"
        elif os.path.exists(_with_slashes(path)):
            root = f"the working directory, {os.getcwd()!r}, written with slashes"
        return (
            f"{joined(folder, path)!r}. Relative paths start at {folder!r}; if these start at "
            f"{root}, name it by `image_root=`."
        )

    def _folder(self, i: int) -> str:
        """Where the relative paths of row `i` start."""
        return self.image_root or parent(self._files[self._shards[i].as_py()].url)

    def _is_remote(self) -> bool:
        return "://" in (self._image(0) or "")

    def where(self, i: int) -> str:
        shard = self._shards[i].as_py()
        row = i - int(self._first_rows[shard]) + 1
        return f"{self._files[shard].url}, row {row}: {self._image(i) or 'no image'}"

    def _image(self, i: int) -> str | None:
        """Where the image of a row lies, if the row names one."""
        path = self._images[i].as_py()
        if not path:
            return None
        return joined(self._folder(i), _with_slashes(path) if self._slashes else path)

    def text(self, i: int) -> str | list[str] | None:
        return text_of(self._texts[i].as_py())

    def image_name(self, i: int) -> str | None:
        return self._image(i)

    def stored(self, rows: range) -> Iterator[Any]:
        """The images' paths as they stand in the table, their sizes where they lie here, texts."""
        bar = tqdm(total=len(rows), unit="row", desc="Fingerprint", delay=1)
        with bar, ThreadPoolExecutor() as pool:
            for start in range(rows.start, rows.stop, _HASHED):
                block = range(start, min(start + _HASHED, rows.stop))
                parts = [block[k : k + 256] for k in range(0, len(block), 256)]
                sizes = [size for part in pool.map(self._sizes, parts) for size in part]
                columns = (
                    column[block.start : block.stop] for column in (self._images, self._texts)
                )
                yield sizes, *(column.to_pylist() for column in columns)
                bar.update(len(block))

    def _sizes(self, rows: range) -> list[int | None]:
        return [_size(self._image(i)) for i in rows]

    def _read(self, i: int) -> Example:
        image = self._image(i)
        if image is None:
            raise ValueError(f"The row has no {self.image_key!r}, the path of its image.")
        try:
            data = read(image)
        except FileNotFoundError as error:
            hint = self._hint(self._folder(i), self._images[i].as_py())
            raise FileNotFoundError(f"There is no image {hint}") from error
        return {"image": data, "text": self.text(i)}


def is_table(name: str) -> bool:
    return ending(name) in _FORMATS


@contextlib.contextmanager
def _explained(file: File) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise ValueError(f"{file.url} cannot be read as a table in UTF-8. {error}") from error


def _is_there(folder: str, path: str) -> bool:
    return "://" not in path and os.path.exists(joined(folder, path))


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _size(path: str | None) -> int | None:
    """Bytes of an image file; None where there is none, and for one that lies far away."""
    try:
        return None if path is None or "://" in path else os.stat(path).st_size
    except (OSError, ValueError):  # which whoever reads it is told
        return None


def _strings(key: str, column: pa.Array) -> pa.Array:
    if not (pa.types.is_null(column.type) or _is_text(column.type)):
        hint = f" Name a field of it: '{key}:field'." if pa.types.is_struct(column.type) else ""
        raise pa.ArrowTypeError(f"Column {key!r} must hold text; it holds {column.type}.{hint}")
    text = column.cast(pa.string())
    text.validate(full=True)  # nobody else looks whether it is UTF-8
    return text


def text_lists(key: str, column: pa.Array) -> pa.Array:
    """A list of texts for each row, of one where the column holds text itself; null for null."""
    if _is_list(column.type):
        return column.cast(_TEXTS)
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
