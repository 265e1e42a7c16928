"""Tables of image paths and texts: CSV, tab-separated, Parquet, JSON lines."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import operator
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from ._files import File, digest, joined, look_at, parent, read
from ._index import cached
from ._source import Example, FileSource


_SCHEMA = pa.schema({"image": pa.string(), "text": pa.string()})
_ROWS = 8192  # of CSV, parsed at a time
_BLOCK = 4 << 20  # bytes of JSON parsed at a time; no row may be longer
_LOOKED_AT = 100  # rows of JSON whose names are columns


class TableSource(FileSource):
    """Image paths and texts in the columns of one table; relative paths start at its folder.

    The table is read once and kept as an index outside the data (`EQX_CLIP_CACHE`), which all
    workers map. Texts stay as they are written: `NA`, `null` and `123` are texts.

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
        columns_of, batches_of = _FORMATS[ending(file.name)]
        try:
            self._find_columns(columns_of(file))
            keys = [str(self.image_key), str(self.text_key)]
            mark = digest("table", file, keys)
            batches = _renamed(batches_of(file, keys), keys)
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
        return "://" in self._image(0)

    def where(self, i: int) -> str:
        return f"{self.path}, row {i + 1}: {self._image(i)}"

    def _image(self, i: int) -> str:
        return joined(parent(self.path), self._images[i].as_py())

    def _read(self, i: int) -> Example:
        return {"image": read(self._image(i)), "text": self._texts[i].as_py()}


def is_table(name: str) -> bool:
    return ending(name) in _FORMATS


def ending(name: str) -> str:
    """The format that a file's name tells, without that of its compression."""
    parts = name.lower().removesuffix(".gz").rsplit(".", 1)
    return parts[-1] if len(parts) == 2 else ""


def _renamed(batches: Iterator[pa.RecordBatch], keys: list[str]) -> Iterator[pa.RecordBatch]:
    """The two columns as text, what is missing as the empty text."""
    for batch in batches:
        columns = [_text(key, batch.column(key)) for key in keys]
        yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _text(key: str, column: pa.Array) -> pa.Array:
    if not (pa.types.is_null(column.type) or _is_text(column.type)):
        raise pa.ArrowTypeError(f"Column {key!r} must hold text; it holds {column.type}.")
    text = column.cast(pa.string()).fill_null("")
    text.validate(full=True)  # nobody else looks whether it is UTF-8
    return text


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _stream(file: File) -> Any:
    opened: Any = fsspec.open(file.url, "rb", compression="infer")
    return opened.open()


@contextlib.contextmanager
def _csv_rows(file: File) -> Iterator[tuple[list[str], Any]]:
    """The names of the columns, and the reader of the rows below them."""
    with (
        _stream(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines,
    ):
        first = lines.readline()
        # OpenCLIP's have tabs, however they are named.
        tabs = ending(file.name) == "tsv" or first.count("\t") > first.count(",")
        delimiter = "\t" if tabs else ","
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        yield next(reader, []), reader


def _csv_columns(file: File) -> list[str]:
    with _csv_rows(file) as (names, _):
        return names


def _csv_batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    # Not pyarrow's parser, which is faster: where a quote is left open, it joins the rows.
    with _csv_rows(file) as (names, reader):
        cells = [operator.itemgetter(names.index(key)) for key in keys]
        try:
            while lines := list(itertools.islice(reader, _ROWS)):
                rows = list(filter(None, lines))  # an empty line is no row
                if not {len(names)}.issuperset(map(len, rows)):
                    raise csv.Error("rows differ in length")
                columns = [pa.array(list(map(cell, rows)), pa.string()) for cell in cells]
                yield pa.RecordBatch.from_arrays(columns, keys)
        except csv.Error:
            _check_rows(file)
            raise


def _check_rows(file: File) -> None:
    """Looks for the first row that is not whole, and raises `csv.Error` with its line."""
    with _csv_rows(file) as (names, reader):
        line = reader.line_num + 1  # where the row starts
        try:
            for row in reader:
                if row and len(row) != len(names):
                    raise csv.Error(f"it has {len(row)} cells in place of {len(names)}")
                line = reader.line_num + 1
        except csv.Error as error:
            raise csv.Error(f"The row at line {line}: {error}. Is a quote missing?") from error


def _json_columns(file: File) -> list[str]:
    with _stream(file) as stream:
        lines = itertools.islice(filter(bytes.strip, stream), _LOOKED_AT)
        rows = [json.loads(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise pa.ArrowInvalid("Expected one JSON object a line.")
    return list(dict.fromkeys(itertools.chain.from_iterable(rows)))  # some rows lack a text


def _json_batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    schema = pa.schema(dict.fromkeys(keys, pa.string()))
    options = (
        pyarrow.json.ReadOptions(block_size=_BLOCK),
        pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    count = 0
    try:
        with _stream(file) as stream:
            for batch in pyarrow.json.open_json(stream, *options):
                yield batch
                count += len(batch)
    except pa.ArrowInvalid as error:  # it counts the rows of a block
        raise pa.ArrowInvalid(f"After {count} rows: {error}") from error


@contextlib.contextmanager
def _parquet(file: File) -> Iterator[pyarrow.parquet.ParquetFile]:
    with _stream(file) as stream:
        try:
            yield pyarrow.parquet.ParquetFile(stream)
        except OSError as error:
            if error.errno is not None:  # the file system's own
                raise
            raise pa.ArrowInvalid(str(error)) from error


def _parquet_columns(file: File) -> list[str]:
    with _parquet(file) as table:
        return table.schema_arrow.names


def _parquet_batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    with _parquet(file) as table:
        yield from table.iter_batches(columns=keys)


# What the readers raise for a file that is not whole, or is something else.
_UNREADABLE = (
    *(pa.ArrowException, csv.Error, json.JSONDecodeError, UnicodeDecodeError),
    *(EOFError, gzip.BadGzipFile, zlib.error),
)

_FORMATS = {
    "csv": (_csv_columns, _csv_batches),
    "tsv": (_csv_columns, _csv_batches),
    "jsonl": (_json_columns, _json_batches),
    "parquet": (_parquet_columns, _parquet_batches),
}
