"""Columns of Arrow as texts, for the indexes of tables and of Parquet with images inside."""

import numpy as np
import pyarrow as pa


TEXTS = pa.list_(pa.string())


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
