"""TFDS builders that read data sets where they lie: nothing is copied, converted or written."""

import os
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from .._types import PathLike
from ._files import is_folder, parent
from ._source import AbstractSource, FileSource, Subset
from ._table import TableSource
from ._tfrecord import TFRecordSource
from ._webdataset import WebDatasetSource


class _InPlaceInfo(tfds.core.DatasetInfo):
    def __init__(self, folder: str, **options: Any):
        self._folder = folder
        super().__init__(**options)

    @property
    def data_dir(self) -> str:
        return self._folder

    def initialize_from_bucket(self) -> None:
        """Nothing is known of these data elsewhere. TFDS's own leaves an empty folder behind."""


class InPlaceBuilder(tfds.core.DatasetBuilder, skip_registration=True):
    """A `tfds.core.DatasetBuilder` of one split, "train", over data that somebody else wrote.

    `as_data_source` gives its examples, as many as `info.splits["train"].num_examples`. TFDS's
    cache, which goes by name and version, is not used: two data sets never meet in it.
    """

    VERSION = tfds.core.Version("1.0.0")
    source_type: ClassVar[type[FileSource]]

    def __init__(
        self,
        path: PathLike,
        *,
        image_key: str | None = None,
        text_key: str | None = None,
        **options: Any,
    ):
        self._source = self.source_type(path, image_key, text_key, **options)
        path = self._source.path
        self._folder = path if is_folder(path) else parent(path)
        # A folder that cannot be: TFDS looks there for what it may have prepared.
        super().__init__(data_dir=os.devnull)
        # What TFDS pickles: a path that means the same in a worker.
        keys = {"image_key": image_key, "text_key": text_key}
        self._original_state = {"path": path, **keys, **options}
        self._data_dir = self._data_dir_root = self._folder
        split = tfds.core.SplitInfo(name="train", shard_lengths=[len(self._source)], num_bytes=0)
        self.info.set_splits(tfds.core.SplitDict([split]))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(), dtype=np.object_, doc="Encoded, as stored."),
            "text": tfds.features.Text(),
        }
        return _InPlaceInfo(
            self._folder,
            builder=self,
            description=f"Images and texts of {self._source.path}, read in place.",
            features=tfds.features.FeaturesDict(features),
        )

    def as_data_source(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, split: str = "train", **options: Any
    ) -> AbstractSource:
        """The examples of "train", or of a slice such as "train[:90%]", as a sequence.

        Items are `{"image": bytes, "text": str}`. Raises `ValueError` for another split.
        """
        if options:
            raise ValueError(f"Examples are bytes and text as stored; got {', '.join(options)}.")
        return sliced(self._source, split)

    def download_and_prepare(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, **options: Any
    ) -> None:
        """Nothing: the data are read in place."""

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        raise NotImplementedError("The data are read in place.")

    def as_dataset(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, *arguments: Any, **options: Any
    ) -> Any:
        """There is none: raises `NotImplementedError`."""
        raise NotImplementedError("There is no tf.data here: use `as_data_source`.")

    _as_dataset = as_dataset  # which TFDS wants to see


class CSVBuilder(InPlaceBuilder, skip_registration=True):
    __doc__ = TableSource.__doc__
    source_type = TableSource

    def __init__(
        self,
        path: PathLike,
        *,
        image_key: str | None = None,
        text_key: str | None = None,
        image_root: PathLike | None = None,
    ):
        super().__init__(path, image_key=image_key, text_key=text_key, image_root=image_root)


class TFRecordBuilder(InPlaceBuilder, skip_registration=True):
    __doc__ = TFRecordSource.__doc__
    source_type = TFRecordSource


class WebDatasetBuilder(InPlaceBuilder, skip_registration=True):
    __doc__ = WebDatasetSource.__doc__
    source_type = WebDatasetSource


def sliced(source: AbstractSource, split: str) -> AbstractSource:
    """What TFDS's slicing notation takes of a source that is all of "train"."""
    if split == "train":
        return source
    lengths = tfds.core.SplitInfo(name="train", shard_lengths=[len(source)], num_bytes=0)
    splits = tfds.core.SplitDict([lengths])
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except AssertionError as error:  # how TFDS answers to a notation that it does not know
        raise ValueError(f"{split!r} is not a slice such as 'train[:90%]'. {error}") from error
    ranges = [range(len(source))[part.from_ : part.to] for part in parts]
    if not sum(map(len, ranges)):
        raise ValueError(f"{split!r} of {len(source)} examples is empty.")
    return Subset(source, ranges)
