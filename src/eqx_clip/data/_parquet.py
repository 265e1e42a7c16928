"""Parquet tables: their columns, and their rows; columns of Arrow as texts."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from ._fields import check_columns, key_path
from ._files import File, unpacked


TEXTS = pa.list_(pa.string())
_compute: Any = pc  # whose functions are made at run time


@contextlib.contextmanager
def opened_parquet(file: File) -> Iterator[pyarrow.parquet.ParquetFile]:
    """The file, for reading; `pa.ArrowInvalid` if it is none of Parquet."""
    with unpacked(file) as stream:
        try:
            yield pyarrow.parquet.ParquetFile(stream)
        except OSError as error:
            if error.errno is not None:  # the file system's own
                raise
            raise pa.ArrowInvalid(str(error)) from error


def columns(file: File, wanted: Sequence[str | None]) -> list[str]:
    """The names of the columns, whatever is looked for."""
    with opened_parquet(file) as table:
        return table.schema_arrow.names


def batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    with opened_parquet(file) as table:
        names = table.schema_arrow.names
        check_columns(file, names, keys)
        paths = [(key, ()) if key in names else key_path(key) for key in keys]
        for batch in table.iter_batches(columns=[name for name, _ in paths]):
            columns = [field(batch.column(name), path) for name, path in paths]
            yield pa.RecordBatch.from_arrays(columns, keys)


def field(column: pa.Array, path: tuple[str, ...]) -> pa.Array:
    """What the structs of a column hold at a path of names."""
    for name in path:
        if not (pa.types.is_struct(column.type) and column.type.get_field_index(name) >= 0):
            raise pa.ArrowKeyError(f"There is no field {name!r} in a column of {column.type}.")
        column = _compute.struct_field(column, name)
    return column


def strings(key: str, column: pa.Array) -> pa.Array:
    """A column of texts, or `pa.ArrowTypeError` for another; null for null."""
    if not (pa.types.is_null(column.type) or _is_text(column.type)):
        hint = _hint(key, column.type)
        raise pa.ArrowTypeError(f"Column {key!r} must hold text; it holds {column.type}.{hint}")
    text = column.cast(pa.string())
    text.validate(full=True)  # nobody else looks whether it is UTF-8
    return text


def _hint(key: str, kind: pa.DataType) -> str:
    """What to do about a column that holds no text."""
    is_struct = pa.types.is_struct(kind)
    is_image = is_struct and kind.get_field_index("bytes") >= 0
    if is_image and pa.types.is_null(kind.field("bytes").type):
        return f" It has no bytes in any row: name the paths, '{key}:path'."
    if is_image or pa.types.is_binary(kind):
        return (
            " If these are images, open such files apart from tables of paths: a list of both is a "
            "mixture."
        )
    return f" Name a field of it: '{key}:field'." if is_struct else ""


def text_lists(key: str, column: pa.Array) -> pa.Array:
    """A list of texts for each row, of one where the column holds text itself; null for null."""
    if _is_list(column.type):
        return column.cast(TEXTS)
    texts = strings(key, column)
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
