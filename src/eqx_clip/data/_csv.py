"""Tables of separated values: their columns, and their rows as text."""

import contextlib
import csv
import io
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ._fields import check_columns
from ._files import File, ending, unpacked


_ROWS = 8192  # parsed at a time
_SEPARATORS = ",\t;|"


@contextlib.contextmanager
def _rows(file: File, wanted: Sequence[str | None]) -> Iterator[tuple[list[str], Any]]:
    """The names of the columns, and the reader of the rows below them."""
    with (
        unpacked(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines,
    ):
        first = lines.readline()
        separator = "\t" if ending(file.name) == "tsv" else _separator(first, wanted)
        dialect = {"delimiter": separator, "skipinitialspace": _is_spaced(first, separator)}
        reader = csv.reader(itertools.chain([first], lines), strict=True, **dialect)
        yield next(reader, []), reader


def _is_spaced(header: str, separator: str) -> bool:
    """Whether a space follows each separator, as in the captions of Flickr30k."""
    _, *names = next(csv.reader([header], delimiter=separator), []) or [""]
    return bool(names) and all(name.startswith(" ") for name in names)


def _separator(header: str, wanted: Sequence[str | None]) -> str:
    """The one that gives most of the columns that are wanted, or else most columns: OpenCLIP's
    tables have tabs, however they are named."""

    def found(separator: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=separator), [])
        return sum(name.strip() in wanted for name in names), len(names)

    return max(_SEPARATORS, key=found)


def columns(file: File, wanted: Sequence[str | None]) -> list[str]:
    """The names of the columns, of which `wanted` are looked for."""
    with _rows(file, wanted) as (names, _):
        return names


def batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    # Not pyarrow's parser, which is faster: where a quote is left open, it joins the rows.
    with _rows(file, keys) as (names, reader):
        check_columns(file, names, keys)
        cells = [operator.itemgetter(names.index(key)) for key in keys]
        try:
            while lines := list(itertools.islice(reader, _ROWS)):
                rows = list(filter(None, lines))  # an empty line is no row
                if not {len(names)}.issuperset(map(len, rows)):
                    raise csv.Error("rows differ in length")
                columns = [pa.array(list(map(cell, rows)), pa.string()) for cell in cells]
                yield pa.RecordBatch.from_arrays(columns, keys)
        except csv.Error:
            _check_rows(file, keys)
            raise


def _check_rows(file: File, keys: list[str]) -> None:
    """Looks for the first row that is not whole, and raises `csv.Error` with its line."""
    with _rows(file, keys) as (names, reader):
        line = reader.line_num + 1  # where the row starts
        try:
            for row in reader:
                if row and len(row) != len(names):
                    raise csv.Error(f"it has {len(row)} cells in place of {len(names)}")
                line = reader.line_num + 1
        except csv.Error as error:
            hint = ""
            if "field limit" in str(error):
                hint = " If such a text is meant: `csv.field_size_limit(10_000_000)`."
            words = f"The row at line {line}: {error}. Is a quote missing?{hint}"
            raise csv.Error(words) from error
