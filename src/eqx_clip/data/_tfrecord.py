"""TFRecord files, read in place at random without TensorFlow: an index of where records lie."""

import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from ._fields import decoded, text_of
from ._files import File, opened, read
from ._shards import ShardedSource
from ._source import Example, FileSource


# A record: its length (8 bytes), the length's checksum (4), the payload, its checksum (4).
_HEADER, _FOOTER = 12, 4
# Records whose features are looked at, to find the image's and the text's.
_LOOKED_AT = 100
_LOOKED_FOR = 1000  # records, evenly spread, in which a key that is given is looked for


class TFRecordSource(ShardedSource):
    """Records of `tf.train.Example` with an encoded image and a text, as img2dataset writes them.

    Files of other kinds beside the shards, gaps in their numbers and further features are passed
    over. A record that lacks the text has none; several values are several texts of its image. A
    record's checksum is compared when it is read.

    Raises `ValueError` for a shard whose records are not whole, naming the byte.
    """

    image_keys = ("jpg", "jpeg", "png", "webp", "image", "image/encoded")
    text_keys = ("txt", "caption", "text", "title")
    file_name = re.compile(r".*\.tfrecords?(-\d{5,}-of-\d{5,})?")
    file_kind = "TFRecord files (`*.tfrecord`)"
    schema = pa.schema(
        {
            **{"shard": pa.int32(), "start": pa.int64(), "size": pa.int64()},
            "checksum": pa.uint32(),
        }
    )

    def _open(self) -> str:
        mark = super()._open()
        names = self._names()
        if self.text_key is None and "txt" in names:
            self.text_key = "txt"  # of img2dataset, which may write it again as `caption`
        self._find_keys(names)
        return mark

    def _names(self) -> tuple[str, ...]:
        """The features that hold bytes, of the first records until both keys are among them, and of
        some of all for a key that is given and not yet there."""
        given = {key for key in (self.image_key, self.text_key) if key}
        names: set[str] = set()
        problems = []
        for k, i in enumerate(self._looked_at()):  # some records lack a text
            if k >= _LOOKED_AT and given <= names:
                break
            try:
                features = self._features(i)
            except ValueError as error:  # a damaged record counts when it is read
                problems.append(error)
                continue
            names.update(name for name, values in features.items() if values)
            if {self.image_key, self.text_key} <= names:
                break
        if problems and not names:
            raise ValueError(
                f"No record of {self.path} can be read, the first of them {self.where(0)}. "
                f"{problems[0]}"
            ) from problems[0]
        return tuple(sorted(names))

    def _looked_at(self) -> Iterator[int]:
        yield from range(min(len(self), _LOOKED_AT))
        yield from np.linspace(0, len(self) - 1, min(len(self), _LOOKED_FOR)).astype(int).tolist()

    def where(self, i: int) -> str:
        file, start, *_ = self._entry(i)
        return f"{file.url}, record at byte {start - _HEADER}"

    def _kept(self) -> None:
        return None

    def _indexed(self, file: File) -> dict[str, np.ndarray]:
        return index_records(file)

    def stored(self, rows: range) -> Iterator[Any]:
        """The sizes and the checksums of the records, which are of texts and pixels."""
        for column in self._columns[2:]:
            yield column[rows.start : rows.stop].to_numpy().tobytes()

    def _features(self, i: int) -> dict[str, list[bytes]]:
        file, start, size, _ = self._entry(i)
        return parse_example(read_record(file.url, start, size))

    def _read(self, i: int) -> Example:
        return example_at(self, i, self._features(i))


def example_at(source: FileSource, i: int, features: dict[str, list[bytes]]) -> Example:
    """The example in a record of a source, or `ValueError` with where it lies."""
    try:
        return example_of(features, str(source.image_key), str(source.text_key))
    except ValueError as error:
        raise ValueError(f"{source.where(i)}: {error}") from error.__cause__


def example_of(features: dict[str, list[bytes]], image_key: str, text_key: str) -> Example:
    """The image and the texts of a record, which may have no text but must have an image."""
    image = next(iter(features.get(image_key, ())), None)
    if not image:
        raise ValueError(f"The record has no image {image_key!r}.")
    texts = [decoded(text, f"The text {text_key!r}") for text in features.get(text_key, ())]
    return {"image": image, "text": text_of(texts)}


def read_record(url: str, start: int, size: int) -> bytes:
    """The payload of `size` bytes from byte `start` of a file, or `ValueError` if it is damaged."""
    data = read(url, start, start + size + _FOOTER)
    payload, checksum = data[:size], data[size:]
    if len(checksum) < _FOOTER or struct.unpack("<I", checksum)[0] != masked_crc(payload):
        raise ValueError(f"The record at byte {start} of {url} is damaged: its checksum differs.")
    return payload


def index_records(file: File) -> dict[str, np.ndarray]:
    """Where the payloads of a file's records start, their sizes and their stored checksums, by what
    lies between the payloads alone."""
    with opened(file.url) as stream:
        rows = np.array(list(_walk(file, _reader(file, stream))), np.int64).reshape(-1, 3)
    starts, sizes, checksums = rows.T
    return {"start": starts, "size": sizes, "checksum": checksums.astype(np.uint32)}


def _walk(file: File, read_at: Callable[[int, int], bytes]) -> Iterator[tuple[int, int, int]]:
    position, count, header = 0, 0, read_at(0, _HEADER)
    while position < file.size:
        where = f"at byte {position} (record {count}) of {file.url}"
        if len(header) < _HEADER:
            raise ValueError(f"Truncated header {where}. Write or download the file again.")
        size, checksum = struct.unpack("<QI", header)
        if checksum != masked_crc(header[:8]):
            if header.startswith(b"\x1f\x8b"):
                raise ValueError(f"{file.url} is compressed by gzip: unpack it (`gunzip`).")
            raise ValueError(f"Damaged header {where}: not a TFRecord, or flipped bits.")
        end = position + _HEADER + size
        if end + _FOOTER > file.size:
            raise ValueError(f"Truncated record {where}. Write or download the file again.")
        between = read_at(end, _FOOTER + _HEADER)  # the end of this record, the start of the next
        (checksum,) = struct.unpack("<I", between[:_FOOTER])
        yield position + _HEADER, size, checksum
        position, count, header = end + _FOOTER, count + 1, between[_FOOTER:]


def _reader(file: File, stream) -> Callable[[int, int], bytes]:
    if "://" not in file.url:
        handle = stream.fileno()
        return lambda position, size: os.pread(handle, size, position)

    def read_at(position: int, size: int) -> bytes:
        stream.seek(position)
        return stream.read(size)

    return read_at


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(record: bytes) -> dict[str, list[bytes]]:
    """The byte strings of each feature of a serialised `tf.train.Example`; none of numbers."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2  # made at run time
    try:
        example = messages.Example.FromString(record)
    except DecodeError as error:
        raise ValueError(f"The record is not a tf.train.Example. {error}") from error
    features = example.features.feature
    return {name: list(value.bytes_list.value) for name, value in features.items()}
