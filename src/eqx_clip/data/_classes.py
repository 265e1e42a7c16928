"""Labelled images, to classify: a folder of classes, or what TFDS prepared."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64
from PIL import Image

from .._types import PathLike
from ._class_names import Names, class_names_of, listed
from ._tfds import key_of


class LabelledImages(NamedTuple):
    """Images as paths or encoded bytes, the class of each, and what the classes are called."""

    images: Sequence[Any]
    labels: Int64[np.ndarray, " images"]
    class_names: tuple[str, ...]


def open_classes(
    path: PathLike,
    *,
    split: str | None = None,
    label_key: str | None = None,
    class_names: Names | None = None,
) -> LabelledImages:
    """The images of a folder of classes, `path/class_name/*.jpg`, or of a data set of TFDS.

    **Arguments:**

    - `path`: a folder whose sub-folders are the classes, at any depth below which their images
      lie, with the suffix of a format that Pillow reads; or a folder where TFDS prepared a data set
      with an `Image` and a `ClassLabel`, in ArrayRecord files.
    - `split`: of TFDS: "test", "validation[:1000]". A folder of classes has none.
    - `label_key`: the `ClassLabel` of TFDS, where a data set has several.
    - `class_names`: one name for each class, in the order of the sorted sub-folders or of TFDS's
      labels; a mapping from those to names; or the path of a file of either: lines of a name each,
      lines of sub-folder and name (`n01440764 tench`, with a tab between them where the sub-folder
      is a word), or JSON of a list or an object. Where numbers sort the sub-folders otherwise than
      strings (0, 1, 10, 2), names are given by class, never as a list. By default
      the sub-folders' or labels' own, with spaces for underscores, and for WordNet's identifiers of
      ImageNet's classes the names that OpenAI gave them. Names that are numbers or other
      identifiers are warned of: a model knows nothing by them.

    **Returns:** `images`, which are opened when they are asked for, `labels` and `class_names`. For
    a classifier: `eqx_clip.zero_shot_classifier(model, classes.class_names, templates)`.

    Raises `ValueError` for a folder without classes, a class without images, names that are not as
    many as the classes, that are no strings, that two classes share or whose order is not clear,
    and a data set without such features, each saying what was found.
    """
    folder = Path(os.fspath(path)).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {folder}: expected one with a sub-folder of images for each "
            "class, or one where TFDS prepared a data set."
        )
    is_prepared = (folder / "dataset_info.json").is_file()
    if is_prepared:
        images, labels, found = _of_tfds(folder, split, label_key)
    elif split is not None:
        raise ValueError(
            f"{folder} was not prepared by TFDS and has no splits: pass no `split`, and the folder "
            f"that holds the classes, such as {folder / split}."
        )
    else:
        images, labels, found = _of_folder(folder)
    names = class_names_of(found, class_names, folder, is_sorted=not is_prepared)
    return LabelledImages(images, labels, names)


def _of_folder(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    names = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if len(names) < 2:
        raise ValueError(
            f"Expected two classes or more, each a sub-folder of images, {folder / 'cat'}, "
            f"{folder / 'dog'}; {folder} has {listed(names) or 'no sub-folder'}."
        )
    Image.init()  # so that Pillow knows all its formats
    suffixes = {end for end, name in Image.registered_extensions().items() if name in Image.OPEN}
    images, labels = [], []
    for label, name in enumerate(names):
        paths = [path for path in (folder / name).rglob("*") if path.suffix.lower() in suffixes]
        if not paths:
            raise ValueError(
                f"The class {name!r} has no image in {folder / name}: add some (.jpg, .png, "
                ".webp, ...), or remove the folder."
            )
        images += sorted(paths)
        labels += [label] * len(paths)
    return images, np.array(labels, np.int64), names


def _of_tfds(
    folder: Path, split: str | None, label_key: str | None
) -> tuple[Sequence[bytes], np.ndarray, list[str]]:
    builder: Any = tfds.builder_from_directory(folder)
    image_key, label_key = key_of(builder, "image"), key_of(builder, "label", label_key)
    if split is None:
        splits = listed(sorted(builder.info.splits))
        raise ValueError(f"{folder} has the splits {splits}: pass `split=`.")
    try:
        decoders = {image_key: tfds.decode.SkipDecoding()}
        examples = builder.as_data_source(split, decoders=decoders)
    except (AssertionError, ValueError) as error:  # AssertionError: a notation it does not know
        raise ValueError(f"{folder} has no split {split!r}. {error}") from error
    except NotImplementedError as error:
        raise ValueError(
            f"{folder} was prepared in files of another format than ArrayRecord, without access at "
            "random. Prepare it again: `tfds.builder(name, data_dir=a_new_folder, "
            "file_format='array_record').download_and_prepare()`."
        ) from error
    labels = [examples[i][label_key] for i in range(len(examples))]
    names = builder.info.features[label_key].names
    return _Column(examples, image_key), np.array(labels, np.int64), list(names)


class _Column(Sequence):
    """One feature of a TFDS data source."""

    def __init__(self, examples: Any, name: str):
        self._examples, self._name = examples, name

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: Any) -> Any:
        return self._examples[range(len(self))[i]][self._name]  # whose IndexError ends a loop
