"""Parquet tables: their columns, and their rows."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from ._fields import check_columns, key_path
from ._files import File, unpacked


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
