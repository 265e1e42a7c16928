"""Parquet tables: their columns, and their rows."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet

from ._files import File, unpacked


@contextlib.contextmanager
def _parquet(file: File) -> Iterator[pyarrow.parquet.ParquetFile]:
    with unpacked(file) as stream:
        try:
            yield pyarrow.parquet.ParquetFile(stream)
        except OSError as error:
            if error.errno is not None:  # the file system's own
                raise
            raise pa.ArrowInvalid(str(error)) from error


def columns(file: File) -> list[str]:
    with _parquet(file) as table:
        return table.schema_arrow.names


def batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    with _parquet(file) as table:
        yield from table.iter_batches(columns=keys)
