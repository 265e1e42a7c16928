"""A data set that TFDS has prepared, from its ArrayRecord or its TFRecord files, as stored."""

import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import decode
from tensorflow_datasets.core.file_adapters import FileFormat

from .._types import PathLike
from ._files import digest, files_in, joined, marks, normalized
from ._parquet_images import ParquetImageSource
from ._source import AbstractSource, Example, FileSource, Mixture, Subset, log_keys
from ._tfrecord import TFRecordSource, example_at, parse_example


def open_tfds(
    path: PathLike, image_key: str | None, text_key: str | None, split: str
) -> AbstractSource:
    """The examples of a split, or of a slice such as "validation[:50%]", of a prepared data set.

    Without keys, its one `Image` feature is taken, and the one `Text` that is called as captions
    are (caption, text, title, description, sentence, alt, prompt and their plurals); in a sequence
    (`captions/text`) it is several texts of an image. Images stay encoded.

    Raises `ValueError` for a split or a key that it does not have, and for files that hold fewer
    examples than the data set's own information says.
    """
    path = normalized(path)
    builder = tfds.builder_from_directory(path)
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    except AssertionError as error:  # how TFDS answers to a notation that it does not know
        raise ValueError(f"{path} has no {split!r}. {error}") from error
    keys = key_of(builder, "image", image_key), key_of(builder, "text", text_key)
    log_keys(path, *keys)
    sources = []
    for part in parts:
        source = _whole(builder, path, part.splitname, *keys)
        sources.append(Subset(source, [range(len(source))[part.from_ : part.to]]))
    sources = [source for source in sources if len(source)]
    if not sources:
        raise ValueError(f"{split!r} of {path} is empty.")
    return sources[0] if len(sources) == 1 else Mixture(sources)


# What captions are called, the last part of a feature's path in lower case, and, where no text is
# called so, what else they are. A text of another name may be an identifier, a label or a language:
# it is taken only where `text_key` names it.
_CAPTIONS = ("caption", "captions", "text", "texts", "txt", "title", "titles")
_DESCRIPTIONS = (
    *("description", "descriptions", "sentence", "sentences"),
    *("prompt", "prompts", "alt", "alt_text"),
)


def key_of(builder: Any, what: str, given: str | None = None) -> str:
    """The feature that is given, or the only one, for an "image", a "text" or a "label".

    `builder` is a `tfds.core.DatasetBuilder`. Features within others are named by a path,
    `captions/text`. Texts in a sequence are texts, too. Without a key a text is taken only by a
    known name of captions, in any case: what another one holds (file names, identifiers, labels,
    languages) its name does not tell.

    Raises `ValueError` where none or several are left, with the features to choose from.
    """
    kind = {
        "image": tfds.features.Image,
        "text": tfds.features.Text,
        "label": tfds.features.ClassLabel,
    }[what]
    features = dict(_named(builder.info.features, repeated=what == "text"))
    candidates = [name for name, feature in features.items() if isinstance(feature, kind)]
    if given is not None:
        chosen = [name for name in candidates if name == given]
    elif what == "text":
        chosen = _called_captions(candidates)
    else:
        chosen = candidates
    if len(chosen) == 1:
        return chosen[0]
    wanted, choice = f"one TFDS {kind.__name__}", ", ".join(map(repr, candidates))
    if given is not None:
        wanted = f"the {what}_key {given!r} to be a TFDS {kind.__name__}"
    elif what == "text":
        wanted += " that is called as captions are (caption, text, title, ...)"
    choice = f", one of {choice}" if choice else ""
    held = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    raise ValueError(
        f"Expected {wanted}; {builder.data_dir} holds {held}. Pass `{what}_key=`{choice}."
    )


def _called_captions(names: Sequence[str]) -> list[str]:
    """The names that are those of captions, in any case."""
    last = {name: name.rsplit("/", 1)[-1].lower() for name in names}
    found = [name for name in names if last[name] in _CAPTIONS]
    return found or [name for name in names if last[name] in _DESCRIPTIONS]


def _named(features: Any, prefix: str = "", *, repeated: bool) -> Iterator[tuple[str, Any]]:
    """The features that are no dictionaries, by their paths; with `repeated` those in sequences as
    what the sequences hold."""
    for name, feature in features.items():
        if repeated and isinstance(feature, tfds.features.Sequence):
            feature = feature.feature
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from _named(feature, f"{prefix}{name}/", repeated=repeated)
        else:
            yield f"{prefix}{name}", feature


def _whole(
    builder: tfds.core.DatasetBuilder, path: str, split: str, image_key: str, text_key: str
) -> FileSource:
    """All examples of a split."""
    info: Any = builder.info.splits[split]
    template, form = info.filename_template, builder.info.file_format
    if form == FileFormat.TFRECORD:
        names = f"{template.dataset_name}-{split}.{template.filetype_suffix}-*"
        source = TFRecordSource(joined(glob.escape(path), names), image_key, text_key)
    elif form == FileFormat.ARRAY_RECORD:
        source = ArrayRecordSource(f"{path}#{split}", image_key, text_key)
    elif form == FileFormat.PARQUET:
        names = f"{template.dataset_name}-{split}.{template.filetype_suffix}-*"
        source = ParquetRecordSource(joined(glob.escape(path), names), image_key, text_key)
    else:
        raise ValueError(
            f"{path} holds {form.value if form else 'unknown'} files, which cannot be read one "
            "example at a time: prepare it with `file_format='array_record'`."
        )
    if len(source) != info.num_examples:
        raise ValueError(
            f"{path} should hold {info.num_examples} examples of {split!r}; its files hold "
            f"{len(source)}. Copy or prepare it again."
        )
    return source


class ParquetRecordSource(ParquetImageSource):
    """A split of a data set in Parquet files, in which TFDS keeps its records as one column."""

    def _look(self) -> None:
        """The keys are given, and name features of the records."""

    def _kept(self) -> tuple[str, str]:
        return "data", ""

    def image_size(self, i: int) -> int | None:
        """Not known: the index has the size of the record."""
        return None

    def text(self, i: int) -> str | list[str] | None:
        return self._read(i)["text"]

    def _read(self, i: int) -> Example:
        return example_at(self, i, parse_example(self._bytes(i)))


class ArrayRecordSource(FileSource):
    """A split of a data set in ArrayRecord files, by TFDS's reader: "folder#split"."""

    image_keys = text_keys = ()

    def _open(self) -> str:
        folder, split = self.path.rsplit("#", 1)
        builder: Any = tfds.builder_from_directory(folder)
        _check_shards(builder.info.splits[split])
        raw = decode.DeserializeMethod.RAW_BYTES
        self._records = builder.as_data_source(split, deserialize_method=raw)
        return digest(split, marks(files_in(folder)))

    def __len__(self) -> int:
        return len(self._records)

    def where(self, i: int) -> str:
        return f"{self.path}, record {i}"

    def stored(self, rows: range) -> Iterator[Any]:
        """The names and sizes of the split's files: all that ArrayRecord tells unread."""
        files = files_in(self.path.rsplit("#", 1)[0])
        yield rows.start, rows.stop, [(file.name, file.size) for file in files]

    def _read(self, i: int) -> Example:
        try:
            record = self._records[i]
        except RuntimeError as error:
            raise ValueError(f"The record is damaged. {error}") from error
        return example_at(self, i, parse_example(record))


def _check_shards(split: Any) -> None:
    """Raises `ValueError` for a file that is missing or cut short, which TFDS meets in reading."""
    from array_record.python.array_record_module import ArrayRecordReader

    for file, expected in zip(split.filepaths, split.shard_lengths, strict=True):
        count = ArrayRecordReader(os.fspath(file)).num_records()
        if count != expected:
            raise ValueError(
                f"{os.fspath(file)} should hold {expected} examples; {count} can be read. Copy or "
                "prepare it again."
            )
