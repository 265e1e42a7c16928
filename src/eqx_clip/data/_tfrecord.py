"""TFRecord files, read in place at random without TensorFlow: an index of where records lie."""

import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from ._files import File, opened, read
from ._shards import ShardedSource
from ._source import Example


# A record: its length (8 bytes), the length's checksum (4), the payload, its checksum (4).
_HEADER, _FOOTER = 12, 4
# Records whose features are looked at, to find the image's and the text's.
_LOOKED_AT = 100


class TFRecordSource(ShardedSource):
    """Records of `tf.train.Example` with an encoded image and a text, as img2dataset writes them.

    Files of other kinds beside the shards, gaps in their numbers and further features are passed
    over; a text that a record does not have is empty. A record's checksum is compared when it is
    read.

    Raises `ValueError` for a shard whose records are not whole, naming the byte.
    """

    image_keys = ("jpg", "jpeg", "png", "webp", "image", "image/encoded")
    text_keys = ("txt", "caption", "text", "title")
    file_name = re.compile(r".*\.tfrecords?(-\d{5,}-of-\d{5,})?")
    file_kind = "TFRecord files (`*.tfrecord`)"
    schema = pa.schema({"shard": pa.int32(), "start": pa.int64(), "size": pa.int64()})

    def _open(self) -> str:
        mark = super()._open()
        names = self._names()
        if self.text_key is None and "txt" in names:
            self.text_key = "txt"  # of img2dataset, which may write it again as `caption`
        self._find_keys(names)
        return mark

    def _names(self) -> tuple[str, ...]:
        """The features that hold bytes, of the records until both keys are among them."""
        names: set[str] = set()
        problems = []
        for i in range(min(len(self), _LOOKED_AT)):  # some records lack a text
            try:
                features = self._features(i)
            except ValueError as error:  # a damaged record counts when it is read
                problems.append(error)
                continue
            names.update(name for name, value in features.items() if value is not None)
            if {self.image_key, self.text_key} <= names:
                break
        if problems and not names:
            raise ValueError(
                f"No record of {self.path} can be read, the first of them {self.where(0)}. "
                f"{problems[0]}"
            ) from problems[0]
        return tuple(sorted(names))

    def where(self, i: int) -> str:
        file, start, _ = self._entry(i)
        return f"{file.url}, record at byte {start - _HEADER}"

    def _kept(self) -> None:
        return None

    def _indexed(self, file: File) -> dict[str, np.ndarray]:
        return index_records(file)

    def _features(self, i: int) -> dict[str, bytes | None]:
        file, start, size = self._entry(i)
        return parse_example(read_record(file.url, start, size))

    def _read(self, i: int) -> Example:
        return example_of(self._features(i), str(self.image_key), str(self.text_key))


def example_of(features: dict[str, bytes | None], image_key: str, text_key: str) -> Example:
    """The image and the text of a record, which may have no text but must have an image."""
    image = features.get(image_key)
    if not image:
        raise ValueError(f"The record has no image {image_key!r}.")
    return {"image": image, "text": (features.get(text_key) or b"").decode()}


def read_record(url: str, start: int, size: int) -> bytes:
    """The payload of `size` bytes from byte `start` of a file, or `ValueError` if it is damaged."""
    data = read(url, start, start + size + _FOOTER)
    payload, checksum = data[:size], data[size:]
    if len(checksum) < _FOOTER or struct.unpack("<I", checksum)[0] != masked_crc(payload):
        raise ValueError(f"The record at byte {start} of {url} is damaged: its checksum differs.")
    return payload


def index_records(file: File) -> dict[str, np.ndarray]:
    """Where the payloads of a file's records start, and their sizes, by its headers alone."""
    starts: list[int] = []
    sizes: list[int] = []
    with opened(file.url) as stream:
        for start, size in _walk(file, _reader(file, stream)):
            starts.append(start)
            sizes.append(size)
    return {"start": np.array(starts, np.int64), "size": np.array(sizes, np.int64)}


def _walk(file: File, read_at: Callable[[int], bytes]) -> Iterator[tuple[int, int]]:
    position, count = 0, 0
    while position < file.size:
        header = read_at(position)
        where = f"at byte {position} (record {count}) of {file.url}"
        if len(header) < _HEADER:
            raise ValueError(f"Truncated header {where}. Write or download the file again.")
        size, checksum = struct.unpack("<QI", header)
        if checksum != masked_crc(header[:8]):
            if header.startswith(b"\x1f\x8b"):
                raise ValueError(f"{file.url} is compressed by gzip: unpack it (`gunzip`).")
            raise ValueError(f"Damaged header {where}: not a TFRecord, or flipped bits.")
        end = position + _HEADER + size + _FOOTER
        if end > file.size:
            raise ValueError(f"Truncated record {where}. Write or download the file again.")
        yield position + _HEADER, size
        position, count = end, count + 1


def _reader(file: File, stream) -> Callable[[int], bytes]:
    if "://" not in file.url:
        handle = stream.fileno()
        return lambda position: os.pread(handle, _HEADER, position)

    def read_at(position: int) -> bytes:
        stream.seek(position)
        return stream.read(_HEADER)

    return read_at


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(record: bytes) -> dict[str, bytes | None]:
    """The features of a serialised `tf.train.Example`: the first byte string of each, or None."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2  # made at run time
    try:
        example = messages.Example.FromString(record)
    except DecodeError as error:
        raise ValueError(f"The record is not a tf.train.Example. {error}") from error
    values = {name: value.bytes_list.value for name, value in example.features.feature.items()}
    return {name: value[0] if value else None for name, value in values.items()}
