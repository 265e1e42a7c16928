"""One function that opens whatever a path is."""

import os
from collections.abc import Sequence

from .._checks import as_count
from .._types import Count, PathLike, Real
from ._builders import sliced
from ._files import contents, files_in, is_folder, is_pattern, listed, look_at, matches, normalized
from ._source import AbstractSource, FileSource, Mixture, Subset
from ._table import TableSource, is_table
from ._tfds import open_tfds
from ._tfrecord import TFRecordSource
from ._webdataset import WebDatasetSource


def open_source(
    path: PathLike,
    *,
    image_key: str | None = None,
    text_key: str | None = None,
    split: str = "train",
    n_samples: Count | None = None,
    factors: Sequence[Real] | None = None,
) -> AbstractSource:
    """The examples of a data set, whichever kind it is, as a sequence read in place.

    Items are `{"image": encoded bytes, "text": str}`.

    **Arguments:**

    - `path`: a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`, also with `.gz`), a folder of TFRecord
      files or of WebDataset's tar files, one such file, a pattern such as `{00000..00041}.tar` or
      `*.tar`, or a folder that TFDS prepared; here or, by fsspec, anywhere (`gs://`, `s3://`,
      `hf://`). Several with `::` between them make a `Mixture`.
    - `image_key`, `text_key`: the columns, features or extensions that hold them; where they are
      not given, the usual names are looked for.
    - `split`: "train", or a slice of it in TFDS's notation: "train[:90%]". What TFDS prepared may
      have other splits.
    - `n_samples`: takes only so many, the first of each.
    - `factors`: how often an epoch draws each of several, as for `Mixture`.

    Raises `ValueError` for data that is damaged or lacks a key, and `FileNotFoundError` where
    nothing is, each saying what was looked for and found.
    """
    parts = os.fspath(path).split("::")
    sources = [_opened(part, image_key, text_key, split) for part in parts]
    if n_samples is not None:
        count = as_count("n_samples", n_samples)
        sources = [_first(count, source) for source in sources]
    if len(sources) == 1 and factors is None:
        return sources[0]
    return Mixture(sources, factors)


def _first(count: int, source: AbstractSource) -> Subset:
    if count > len(source):
        raise ValueError(f"`n_samples={count}` is more than there are: {source!r}.")
    return Subset(source, [range(count)])


def _opened(path: str, image_key: str | None, text_key: str | None, split: str) -> AbstractSource:
    if not path:
        raise ValueError("The path is empty: expected a table or a folder of shards.")
    kind = _kind(path)
    if kind is None:
        return open_tfds(path, image_key, text_key, split)
    return sliced(kind(path, image_key, text_key), split)


def _kind(path: str) -> type[FileSource] | None:
    """The kind of source that a path is, by the names of its files; None if TFDS prepared it."""
    url = normalized(path)
    if is_pattern(url):
        names = [file.name for file in matches(url)]
    elif is_folder(url):
        names = [file.name for file in files_in(url)]
        if {"dataset_info.json", "features.json"} <= set(names):
            return None
    else:
        names = [look_at(url).name]
        if is_table(names[0]):
            return TableSource
    kinds = [
        kind
        for kind in (TFRecordSource, WebDatasetSource)
        if any(kind.file_name.fullmatch(name) for name in names)
    ]
    if len(kinds) != 1:
        found = contents(url) if is_folder(url) else listed(names)
        raise ValueError(
            f"{path} is {'more than one' if kinds else 'no'} kind of data set: expected a table "
            "(.csv, .tsv, .jsonl, .parquet), TFRecord files (.tfrecord), WebDataset shards (.tar) "
            f"or a folder prepared by TFDS; found {found}."
        )
    return kinds[0]
