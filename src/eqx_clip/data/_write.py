"""Any source to TFRecord shards in img2dataset's layout, without TensorFlow."""

import io
import struct
from collections.abc import Iterator
from typing import Any

import fsspec
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .._checks import as_count
from .._types import Count, PathLike
from ._files import files_in, is_folder, joined, normalized
from ._source import where
from ._tfrecord import TFRecordSource, masked_crc


def write_tfrecords(
    source: Any, folder: PathLike, *, shard_size: Count = 10_000, progress: bool = True
) -> None:
    """Writes the examples to `00000.tfrecord`, `00001.tfrecord`, ..., as img2dataset does.

    Each record is a `tf.train.Example` of byte strings: `key`, the example's number of nine digits;
    the text as `txt` and as `caption`, of several values where there are several, left out where
    there is none; and the image as it is stored, under the format of the first
    image (`jpg`, `png`, `webp`), whatever the others are. `TFRecordBuilder` reads them back
    byte for byte.

    **Arguments:**

    - `source`: a sequence of `{"image": bytes, "text": str}`, in whose order they are written.
    - `folder`: here or, by fsspec, anywhere. A shard appears under its name once it is whole.
    - `shard_size`: examples in a shard; some 100 MB are usual.
    - `progress`: whether to show a bar.

    Raises `ValueError` for a folder that holds TFRecord files already, for an image that is not
    encoded bytes, and for a first image of a format that TFRecords of this layout do not have.
    """
    shard_size, count, folder = as_count("shard_size", shard_size), len(source), normalized(folder)
    _refuse_a_full_folder(folder)
    filesystem, _ = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(folder, exist_ok=True)
    name = _image_name(source) if count else ""
    with tqdm(total=count, unit="image", desc="Writing", disable=not progress) as bar:
        for shard, start in enumerate(range(0, count, shard_size)):
            path = joined(folder, f"{shard:05}.tfrecord")
            with filesystem.open(f"{path}.part", "wb") as stream:
                for record in _records(source, name, range(start, min(start + shard_size, count))):
                    stream.write(record)
                    bar.update()
            filesystem.mv(f"{path}.part", path)


def _refuse_a_full_folder(folder: str) -> None:
    if not is_folder(folder):
        return
    there = [file.name for file in files_in(folder) if TFRecordSource.file_name.match(file.name)]
    if there:
        raise ValueError(
            f"{folder} holds TFRecord files already, {there[0]} for one: name another folder, or "
            "empty it."
        )


def _image_name(source: Any) -> str:
    """What img2dataset calls an image of the first one's format."""
    data = _bytes(source, 0, source[0]["image"])
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format
    except UnidentifiedImageError:
        kind = "no image that Pillow can identify"
    names = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
    if kind not in names:
        raise ValueError(f"Expected JPEG, PNG or WebP; {where(source, 0)} is {kind}.")
    return names[kind]


def _records(source: Any, name: str, indices: range) -> Iterator[bytes]:
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2  # made at run time
    for i in indices:
        example, record = source[i], messages.Example()
        texts = [text.encode() for text in _texts(example["text"])]
        values = {
            "key": [f"{i:09}".encode()],
            **(dict.fromkeys(("txt", "caption"), texts) if texts else {}),
            name: [_bytes(source, i, example["image"])],
        }
        for key, value in values.items():
            record.features.feature[key].bytes_list.value.extend(value)
        yield framed(record.SerializeToString(deterministic=True))


def _texts(text: str | list[str] | None) -> list[str]:
    if text is None:
        return []
    return [text] if isinstance(text, str) else text


def framed(payload: bytes) -> bytes:
    """A payload as a record: its length, the length's checksum, itself, its checksum."""
    length = struct.pack("<Q", len(payload))
    checksums = (struct.pack("<I", masked_crc(data)) for data in (length, payload))
    return length + next(checksums) + payload + next(checksums)


def _bytes(source: Any, i: int, image: Any) -> bytes:
    if not isinstance(image, bytes):
        raise ValueError(
            f"{where(source, i)} is a {type(image).__name__}: only encoded bytes can be written."
        )
    return image
