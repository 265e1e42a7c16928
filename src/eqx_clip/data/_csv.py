"""Tables of separated values: their columns, and their rows as text."""

import contextlib
import csv
import io
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ._files import File, ending, unpacked


_ROWS = 8192  # parsed at a time


@contextlib.contextmanager
def _rows(file: File) -> Iterator[tuple[list[str], Any]]:
    """The names of the columns, and the reader of the rows below them."""
    with (
        unpacked(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines,
    ):
        first = lines.readline()
        # OpenCLIP's have tabs, however they are named.
        tabs = ending(file.name) == "tsv" or first.count("\t") > first.count(",")
        delimiter = "\t" if tabs else ","
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        yield next(reader, []), reader


def columns(file: File) -> list[str]:
    with _rows(file) as (names, _):
        return names


def batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    # Not pyarrow's parser, which is faster: where a quote is left open, it joins the rows.
    with _rows(file) as (names, reader):
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
    with _rows(file) as (names, reader):
        line = reader.line_num + 1  # where the row starts
        try:
            for row in reader:
                if row and len(row) != len(names):
                    raise csv.Error(f"it has {len(row)} cells in place of {len(names)}")
                line = reader.line_num + 1
        except csv.Error as error:
            raise csv.Error(f"The row at line {line}: {error}. Is a quote missing?") from error
