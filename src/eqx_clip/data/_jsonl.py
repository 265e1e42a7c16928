"""Tables of one JSON object a line: their names, and their rows."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ._fields import field, key_path, text_field
from ._files import File, unpacked


_ROWS = 8192  # of a batch
_LOOKED_AT = 100  # rows whose names are columns, since some lack a text


def columns(file: File, wanted: Sequence[str | None]) -> list[str]:
    """The names in the first objects, whatever is looked for."""
    rows = itertools.islice(_rows(file), _LOOKED_AT)
    return list(dict.fromkeys(itertools.chain.from_iterable(row for _, row in rows)))


def has(file: File, key: str) -> bool:
    """Whether any object has a key, "caption" or "meta:caption"; all are read until one has it."""
    return any(_has(row, key) for _, row in _rows(file))


def _has(row: dict[str, Any], key: str) -> bool:
    name, path = (key, ()) if key in row else key_path(key)
    *above, last = name, *path
    value = field(row, tuple(above))
    return isinstance(value, Mapping) and last in value


def batches(file: File, keys: list[str]) -> Iterator[pa.RecordBatch]:
    image_key, text_key = keys
    rows = _rows(file)
    while block := list(itertools.islice(rows, _ROWS)):
        images = pa.array([_text(line, row, image_key) for line, row in block], pa.string())
        texts = [_list(_texts(line, row, text_key)) for line, row in block]
        columns = [images, pa.array(texts, pa.list_(pa.string()))]
        yield pa.RecordBatch.from_arrays(columns, keys)


def _rows(file: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object, with the number of its line; an empty line is none."""
    with unpacked(file) as stream:
        for line, data in enumerate(stream, 1):
            if not data.strip():
                continue
            try:
                row = json.loads(data)
            except json.JSONDecodeError as error:  # whose own message counts lines from here
                words = f"Line {line} is no JSON in UTF-8: {error.msg} at column {error.colno}."
                raise pa.ArrowInvalid(words) from error
            except (ValueError, RecursionError) as error:  # not UTF-8, nested too deep
                raise pa.ArrowInvalid(f"Line {line} is no JSON in UTF-8: {error}") from error
            if not isinstance(row, dict):
                raise pa.ArrowInvalid(
                    f"Expected one JSON object a line; line {line} is a {type(row).__name__}."
                )
            yield line, row


def _text(line: int, row: dict[str, Any], key: str) -> str | None:
    value = _texts(line, row, key)
    if isinstance(value, list):
        raise pa.ArrowTypeError(f"{key!r} must hold text; on line {line} it is a list.")
    return value


def _texts(line: int, row: dict[str, Any], key: str) -> str | list[str | None] | None:
    name, path = (key, ()) if key in row else key_path(key)
    try:
        return text_field(field(row.get(name), path), key)
    except ValueError as error:
        raise pa.ArrowTypeError(f"Line {line}: {error}") from error


def _list(text: str | list[str | None] | None) -> list[str | None] | None:
    return [text] if isinstance(text, str) else text
