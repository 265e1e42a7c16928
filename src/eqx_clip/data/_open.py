"""One function that opens whatever a path is."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from .._checks import as_count
from .._types import Count, PathLike, Real
from ._builders import sliced
from ._files import (
    contents,
    ending,
    files_in,
    folders_in,
    is_folder,
    is_pattern,
    joined,
    listed,
    look_at,
    matches,
    normalized,
    walk,
)
from ._folder import EXPECTED, METADATA, FolderSource, is_image, texts_beside_images
from ._parquet import opened_parquet
from ._parquet_images import ParquetImageSource, image_columns
from ._paths import check_splits
from ._shards import ShardedSource
from ._source import AbstractSource, FileSource, Mixture, Subset
from ._table import TableSource, is_table
from ._tfds import open_tfds
from ._tfrecord import TFRecordSource
from ._webdataset import WebDatasetSource


_THREADS = 32  # that wait for a network


def open_source(
    path: PathLike | Sequence[PathLike],
    *,
    image_key: str | None = None,
    text_key: str | None = None,
    image_root: PathLike | None = None,
    split: str = "train",
    n_samples: Count | None = None,
    factors: Sequence[Real] | None = None,
) -> AbstractSource:
    """The examples of a data set, whichever kind it is, as a sequence read in place.

    Items are `{"image": encoded bytes, "text": str}`.

    **Arguments:**

    - `path`: a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`, also with `.gz` but for Parquet with
      images inside; a `.txt` of such columns), a folder of TFRecord files, of WebDataset's tar
      files or of tables, one such file, a pattern such as `{00000..00041}.tar` or
      `train-*.parquet`, a folder of images beside their texts (`0001.jpg`, `0001.txt`) or with a
      `metadata.csv` or `.jsonl`, or a folder that TFDS prepared; here or, by fsspec, anywhere
      (`gs://`, `s3://`, `hf://`). Several with `::` between them make a `Mixture`. A list of tables
      of paths, of Parquet with images inside, or of shards of one kind, is one source in its order;
      of other kinds, of several, or with `factors`, it is a `Mixture`, too.
    - `image_key`, `text_key`: the columns, features or extensions that hold them; where they are
      not given, the usual names are looked for, and the log says which were taken. A field of an
      object is `column:field`, in a tar file `json:caption`.
    - `image_root`: where the relative paths of a table's images, or of Parquet whose `bytes` are
      null, start, if not at its folder.
    - `split`: "train", or a slice of it in TFDS's notation: "train[:90%]". What TFDS prepared may
      have other splits.
    - `n_samples`: takes only so many, the first of each.
    - `factors`: how often an epoch draws each of several, as for `Mixture`.

    Raises `ValueError` for what is no path and for data that is damaged or lacks a key, and
    `FileNotFoundError` where nothing is, each saying what was looked for and found.
    """
    is_one = isinstance(path, str | os.PathLike)
    paths = [path] if is_one else _checked(path)
    found = _kinds([part for one in paths for part in os.fspath(one).split("::")], image_key)
    if not is_one and factors is None and _are_alike(found):
        found = [(found[0][0], "::".join(url for _, url in found))]
    sources = [_opened(*one, image_key, text_key, image_root, split) for one in found]
    if n_samples is not None:
        count = as_count("n_samples", n_samples)
        sources = [_first(count, source) for source in sources]
    if len(sources) == 1 and factors is None:
        return sources[0]
    return Mixture(sources, factors)


def _checked(paths: Any) -> list[Any]:
    """The paths of a list, or `ValueError` for what is none."""
    is_list = isinstance(paths, Iterable) and not isinstance(paths, bytes | Mapping)
    given: list[Any] = list(paths) if is_list else [paths]
    for part in given:
        if not isinstance(part, str | os.PathLike):
            raise ValueError(
                "Expected the path of a data set, a string or a `pathlib.Path`, or a list of such "
                f"paths; got {part!r:.80}{' in a list' if is_list else ''}."
            )
    if not given:
        raise ValueError("The list of paths is empty: expected tables or folders.")
    return given


def _first(count: int, source: AbstractSource) -> Subset:
    if count > len(source):
        raise ValueError(f"`n_samples={count}` is more than there are: {source!r}.")
    return Subset(source, [range(count)])


def _opened(
    kind: type[FileSource] | None,
    url: str,
    image_key: str | None,
    text_key: str | None,
    image_root: PathLike | None,
    split: str,
) -> AbstractSource:
    """A path as what it was found to be."""
    if kind in (TableSource, ParquetImageSource):
        return sliced(kind(url, image_key, text_key, image_root), split)
    if image_root is not None:
        raise ValueError(
            f"`image_root` is of tables and of Parquet that names files; {url} is neither."
        )
    if kind is None:
        return open_tfds(url, image_key, text_key, split)
    return sliced(kind(url, image_key, text_key), split)


Found = tuple[type[FileSource] | None, str]  # the kind of source that a path is, and what to open


def _kinds(paths: list[str], image_key: str | None) -> list[Found]:
    """What each path is, by threads where some are far away."""
    threads = _THREADS if any("://" in path for path in paths) else 1
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda path: _kind(path, image_key), paths))


def _are_alike(found: list[Found]) -> bool:
    """Whether several paths are of one kind that reads many files as one."""
    kinds = {kind for kind, _ in found}
    return len(kinds) == 1 and all(kind and issubclass(kind, ShardedSource) for kind in kinds)


def _kind(path: str, image_key: str | None) -> Found:
    """The kind of source that a path is, None for what TFDS prepared, and what to open as that."""
    if not path:
        raise ValueError("The path is empty: expected a table or a folder of shards.")
    kind, url = _kind_by_names(path)
    if kind is TableSource and _holds_images(url, image_key):
        kind = ParquetImageSource
    return kind, url


def _kind_by_names(path: str) -> Found:
    """The same by the names of the files, to which all Parquet is a table of paths."""
    url = normalized(path)
    if is_pattern(url):
        names = [file.name for file in matches(url)]
    elif is_folder(url):
        names = [file.name for file in files_in(url)]
        if {"dataset_info.json", "features.json"} <= set(names):
            return None, url
    else:
        names = [look_at(url).name]
        if is_table(names[0]):
            return TableSource, url
    shards = [kind for kind in (TFRecordSource, WebDatasetSource) if _has_file(kind, names)]
    if len(shards) == 1:  # what img2dataset writes beside them are tables, too
        return shards[0], url
    if not shards and is_folder(url):
        return _kind_of_folder(url, names)
    if not shards and _has_file(TableSource, names):
        return TableSource, url
    found = contents(url) if is_folder(url) else listed(names)
    raise ValueError(
        f"{path} is {'more than one' if shards else 'no'} kind of data set: expected {EXPECTED}; "
        f"found {found}."
    )


def _kind_of_folder(url: str, names: list[str]) -> tuple[type[FileSource], str]:
    """What a folder without shards is: with metadata, of tables, or of images beside texts."""
    tables = [name for name in names if TableSource.file_name.fullmatch(name)]
    if tables:  # without those that img2dataset writes, each beside its folder of images
        folders = {name for name in folders_in(url) if name.isdigit()}
        tables = [name for name in tables if name.split(".")[0] not in folders]
    if metadata := [name for name in tables if METADATA.fullmatch(name)]:
        tables = metadata
    if not tables:
        pattern = _metadata_below(url)
        return (FolderSource, url) if pattern is None else (TableSource, pattern)
    if texts := texts_beside_images(names):
        raise ValueError(
            f"{url} is more than one kind of data set, tables, {listed(tables)}, and images beside "
            f"texts, {listed(texts)}: open a table by its own path, or take it out of the folder."
        )
    formats = sorted({ending(name) for name in tables})
    if len(formats) > 1:
        raise ValueError(
            f"{url} holds tables of several formats, {listed(tables)}, which may be the same rows: "
            "name the one to read by its path, or those of one format by a pattern."
        )
    check_splits(url, tables)
    return TableSource, joined(url, metadata[0]) if metadata else url


def _metadata_below(url: str) -> str | None:
    """A pattern of the metadata in the folders of a folder, if the first that has files has it."""
    for _, files in walk(url):
        names = [file.name for file in files]
        found = [name for name in names if METADATA.fullmatch(name)]
        if len(found) == 1:
            pattern = f"{glob.escape(url)}/**/{found[0]}"
            check_splits(url, [file.url.removeprefix(f"{url}/") for file in matches(pattern)])
            return pattern
        if found or any(map(is_image, names)):
            return None
    return None


def _holds_images(url: str, image_key: str | None) -> bool:
    """Whether the first file of a table is Parquet with the images inside."""
    if is_pattern(url):
        file = matches(url)[0]
    elif is_folder(url):
        file = next(file for file in files_in(url) if TableSource.file_name.fullmatch(file.name))
    else:
        file = look_at(url)
    if ending(file.name) != "parquet":
        return False
    try:
        with opened_parquet(file) as table:
            images = image_columns(table.schema_arrow)
    except pa.ArrowException:  # which whoever opens it tells
        return False
    return bool(images) if image_key is None else image_key in images


def _has_file(kind: Any, names: list[str]) -> bool:
    return any(kind.file_name.fullmatch(name) for name in names)
