"""Parquet files with images inside: Hugging Face's `struct<bytes, path>`, img2dataset's `jpg`."""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ._fields import check_columns, key_path, text_of
from ._files import File, joined, read, simplified
from ._parquet import field, opened_parquet, text_lists
from ._parquet_pages import Chunk, Place, places, value_of
from ._paths import missing
from ._shards import RootedSource
from ._source import Example, log_keys


_CODECS = ("SNAPPY", "GZIP", "BROTLI", "ZSTD")


class ParquetImageSource(RootedSource):
    """Images and texts in the columns of Parquet files.

    The images' column holds bytes, or structs of `bytes` and `path`; where `bytes` is null or
    empty, `path` names a file, relative to the Parquet file's folder or to `image_root`. Several
    files are read in sorted order. They are walked once, for an index of where each image lies
    (`EQX_CLIP_CACHE`); then an image is one read, whatever the row groups: of its own bytes, of
    some 64 KiB more under Snappy, of its whole page, which may hold a thousand images, under other
    compressions.

    Raises `ValueError` for files that are damaged or compressed as a whole (`.gz`), that lack the
    columns, or whose images have another encoding than PLAIN or by dictionary, and
    `FileNotFoundError` for an `image_root` that is no folder.
    """

    image_keys = ("image", "jpg", "png", "jpeg", "webp", "img", "bytes")
    text_keys = ("title", "caption", "text", "txt")
    file_name = re.compile(r".*\.parquet(\.gz)?", re.IGNORECASE)  # of which `.gz` is refused
    file_kind = "Parquet files (`*.parquet`)"
    schema = pa.schema(
        {
            **{"shard": pa.int32(), "start": pa.int64(), "stored": pa.int64()},
            **{"decoded": pa.int64(), "skip": pa.int64(), "size": pa.int64()},
            **{"checksum": pa.uint32(), "codec": pa.dictionary(pa.int8(), pa.string())},
            **{"path": pa.string(), "text": pa.list_(pa.string())},
        }
    )

    def _is_remote(self) -> bool:
        return super()._is_remote() or "://" in (self.image_root or "")

    def _look(self) -> None:
        packed = [file.url for file in self._files if file.name.lower().endswith(".gz")]
        if packed:
            raise ValueError(
                f"{packed[0]} is Parquet with images inside, compressed as a whole, in which no "
                "image can be read by itself: unpack it (`gunzip`)."
            )
        file = self._files[0]
        with opened_parquet(file) as table:
            schema = table.schema_arrow
        images = image_columns(schema)
        guessed = self.image_key is None or self.text_key is None
        if self.image_key is None and len(images) == 1:
            self.image_key = images[0]
        self.image_key = self._key("image", self.image_key, self.image_keys, images)
        texts = [name for name in schema.names if name not in images]
        self.text_key = self._key("text", self.text_key, self.text_keys, texts)
        if guessed:
            log_keys(self.path, self.image_key, self.text_key)

    def _kept(self) -> tuple[str, str]:
        return str(self.image_key), str(self.text_key)

    def _contents(self) -> str:
        return "They have no rows."

    def _indexed(self, file: File) -> dict[str, Any]:
        raise NotImplementedError("Parquet files are indexed by row groups.")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        rows = 0
        for shard, file in enumerate(tqdm(self._files, unit="file", desc="Indexing", delay=1)):
            for batch in self._row_groups(file):
                shards = pa.array(np.full(len(batch), shard, np.int32))
                yield pa.RecordBatch.from_arrays([shards, *batch.columns], schema=self.schema)
                rows += len(batch)
        if not rows:  # said here, an index of nothing is not kept
            raise ValueError(f"{self.path} holds no rows.")

    def _row_groups(self, file: File) -> Iterator[pa.RecordBatch]:
        """The index of each row group, but for the file."""
        image_key, text_key = self._kept()
        with opened_parquet(file) as table:
            names = table.schema_arrow.names
            column, is_struct = _leaf(file, table, image_key)
            check_columns(file, names, [text_key] if text_key else [])
            name, path = (text_key, ()) if text_key in names else key_path(text_key)
            wanted = [*([name] if name else []), *([f"{image_key}.path"] if is_struct else [])]
            for number in range(table.num_row_groups):
                try:
                    chunk = _chunk(table, number, column)
                    found = list(places(chunk, functools.partial(read, file.url)))
                    row_group = table.read_row_group(number, columns=wanted)
                    paths = texts = pa.nulls(len(found), pa.string())
                    if image_key in row_group.column_names:
                        paths = _paths(_whole(row_group.column(image_key)), found)
                    if name:
                        texts = field(_whole(row_group.column(name)), path)
                    columns = [*_columns(found), paths, text_lists(text_key, texts)]
                except (ValueError, OSError, pa.ArrowException) as error:
                    raise ValueError(
                        f"Row group {number} of {file.url} cannot be read. {error}"
                    ) from error
                yield pa.RecordBatch.from_arrays(columns, list(self.schema.names[1:]))

    def where(self, i: int) -> str:
        shard = self._columns[0][i].as_py()
        first = int(np.searchsorted(self._shards, shard))
        return f"{self._files[shard].url}, row {i - first + 1}"

    @property
    def _shards(self) -> np.ndarray:
        return self._columns[0].to_numpy()

    def image_name(self, i: int) -> str | None:
        path = self._column("path")[i].as_py()
        if not path:
            return None
        file, *_ = self._entry(i)
        return simplified(joined(self.folder_of(file), path))

    def image_size(self, i: int) -> int | None:
        return self._column("size")[i].as_py()

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._columns[self.schema.get_field_index(name)]

    def text(self, i: int) -> str | list[str] | None:
        return text_of(self._columns[-1][i].as_py())

    def stored(self, rows: range) -> Iterator[Any]:
        """The images' checksums and sizes, the paths of those in files of their own, the texts."""
        for name in ("checksum", "size", "path", "text"):
            yield self._column(name)[rows.start : rows.stop].to_pylist()

    def _read(self, i: int) -> Example:
        *_, texts = self._entry(i)
        return {"image": self._bytes(i), "text": text_of(texts)}

    def _bytes(self, i: int) -> bytes:
        """The bytes in a row, or in the file that its path names."""
        file, start, *row_group, path, _ = self._entry(i)
        place = Place(start, *row_group)
        if place.size:
            return value_of(place, read(file.url, start, start + place.stored))
        if not path:
            raise ValueError(f"The row has no {self._kept()[0]!r}.")
        try:
            return read(joined(self.folder_of(file), path))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                "The row holds no bytes, and the file that its path names is not here: "
                f"{missing(path, self.folder_of(file))} `datasets.Dataset.to_parquet` writes "
                "images that came from files so: copy the files, or write the data set with its "
                "images embedded (`push_to_hub` does)."
            ) from error


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns of a Parquet file that hold encoded images."""
    return [name for name in schema.names if _is_image(schema.field(name).type)]


def _is_image(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _leaf(file: File, table: Any, key: str) -> tuple[int, bool]:
    """The number of the leaf column that holds the bytes, and whether it is in a struct."""
    schema = table.schema_arrow
    if key not in schema.names or not _is_image(schema.field(key).type):
        raise ValueError(f"{file.url} has no column {key!r} of images: it holds {schema.names}.")
    paths = [table.schema.column(k).path for k in range(len(table.schema))]
    is_struct = key not in paths
    return paths.index(f"{key}.bytes" if is_struct else key), is_struct


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _chunk(table: Any, number: int, column: int) -> Chunk:
    about, leaf = table.metadata.row_group(number).column(column), table.schema.column(column)
    if leaf.physical_type != "BYTE_ARRAY" or leaf.max_repetition_level:
        raise ValueError(f"Its images are {leaf.physical_type}, or lists: expected one a row.")
    if about.num_values != table.metadata.row_group(number).num_rows:
        raise ValueError("It has not as many images as rows.")
    codec = "" if about.compression == "UNCOMPRESSED" else about.compression
    if codec and codec not in _CODECS:
        raise ValueError(f"Its images are compressed by {codec}: expected {', '.join(_CODECS)}.")
    start = about.data_page_offset
    if about.has_dictionary_page and about.dictionary_page_offset:
        start = min(start, about.dictionary_page_offset)
    return Chunk(
        start,
        about.total_compressed_size,
        about.num_values,
        codec.lower(),
        leaf.max_definition_level,
    )


def _columns(found: Sequence[Place | None]) -> list[pa.Array]:
    """The places as columns of the index, null for nulls."""
    rows = [place or (None,) * len(Place._fields) for place in found]
    columns = list(zip(*rows, strict=True)) or [()] * len(Place._fields)
    kinds = ParquetImageSource.schema.types[1 : 1 + len(Place._fields)]
    arrays = [pa.array(column, kind) for column, kind in zip(columns[:-1], kinds, strict=False)]
    return [*arrays, pa.array(columns[-1], pa.string()).cast(kinds[-1])]


def _paths(images: pa.Array, found: Sequence[Place | None]) -> pa.Array:
    """The paths of the images that have no bytes: null, or an empty string."""
    paths = field(images, ("path",)).to_pylist()
    pairs = zip(paths, found, strict=True)
    kept = [None if place is not None and place.size else path for path, place in pairs]
    return pa.array(kept, pa.string())
