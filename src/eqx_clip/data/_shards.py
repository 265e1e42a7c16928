"""Data sets of many shards, and the index of where in them the examples lie."""

import abc
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from .._types import PathLike
from ._files import (
    File,
    contents,
    digest,
    files_in,
    is_folder,
    is_pattern,
    look_at,
    marks,
    matches,
    parent,
)
from ._index import cached
from ._paths import checked_root
from ._source import FileSource


class ShardedSource(FileSource):
    """A folder of shards, one shard, or a pattern such as `{00000..00041}.tar`; several with `::`.

    The index of where the examples lie is made in one pass over the shards and kept outside the
    data (`EQX_CLIP_CACHE`), by the shards' names, sizes and times.
    """

    file_name: re.Pattern[str]
    file_kind: str
    schema: pa.Schema  # of the index: "shard" first

    def _open(self) -> str:
        self._files = self._find_files()
        self._look()
        mark = digest(type(self).__name__, marks(self._files), self._kept())
        self._columns = cached(mark, self.schema, self._batches())
        return mark

    def _look(self) -> None:
        """Looks at the first files, for what the index depends on."""

    @abc.abstractmethod
    def _kept(self) -> Any:
        """What the index depends on, beside the files."""

    @abc.abstractmethod
    def _indexed(self, file: File) -> dict[str, Any]:
        """The columns of the index, but "shard", of one file."""

    def _contents(self) -> str:
        """What was found instead of examples, for an error."""
        return f"Its {len(self._files)} files are empty."

    def __len__(self) -> int:
        return len(self._columns[0])

    def _entry(self, i: int) -> tuple[Any, ...]:
        """The file that example `i` is in, and the other columns of its row of the index."""
        shard, *fields = (column[i].as_py() for column in self._columns)
        return self._files[shard], *fields

    def _find_files(self) -> list[File]:
        return [file for path in self.path.split("::") for file in self._files_of(path)]

    def _files_of(self, path: str) -> list[File]:
        if is_pattern(path):
            return matches(path)
        if not is_folder(path):
            return [look_at(path)]
        files = [file for file in files_in(path) if self.file_name.fullmatch(file.name)]
        if not files:
            raise ValueError(
                f"The folder {path} holds no {self.file_kind}: what it holds is {contents(path)}."
            )
        return files

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """The index, one batch for each file, made by threads where files are far away."""
        bar = tqdm(total=len(self._files), unit="shard", desc="Indexing", delay=1)
        total = 0
        with bar, ThreadPoolExecutor(32 if "://" in self.path else 1) as pool:
            try:
                for shard, columns in enumerate(pool.map(self._indexed, self._files)):
                    count = len(next(iter(columns.values())))
                    columns = {"shard": np.full(count, shard, np.int32), **columns}
                    yield pa.RecordBatch.from_pydict(columns, schema=self.schema)
                    bar.update()
                    total += count
            finally:
                pool.shutdown(cancel_futures=True)
        if not total:  # said here, an index of nothing is not kept
            raise ValueError(f"{self.path} holds no examples. {self._contents()}")


class RootedSource(ShardedSource):
    """Shards that name files of images, by paths that may start at a folder of the user's.

    `image_root`: where relative paths start; by default the folder of the shard that names them.
    Raises `FileNotFoundError` for one that is no folder.
    """

    def __init__(
        self,
        path: PathLike,
        image_key: str | None = None,
        text_key: str | None = None,
        image_root: PathLike | None = None,
    ):
        self.image_root = checked_root(image_root)
        super().__init__(path, image_key, text_key)

    def _arguments(self) -> tuple[Any, ...]:
        return *super()._arguments(), self.image_root

    def folder_of(self, file: File) -> str:
        """Where the relative paths in a shard start."""
        return self.image_root or parent(file.url)
