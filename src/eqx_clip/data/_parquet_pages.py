"""Where the values of a column of byte strings lie in a Parquet file.

Readers of Parquet decode whole row groups, of which the usual writers make one for a million rows,
in pages of 1,024 images. To read one image, its place is looked up here once: in pages without
compression its own bytes; in those of Snappy, whose encoder starts anew every 64 KiB, the
fragments that hold it; otherwise its page. https://parquet.apache.org/docs/file-format/ and
https://github.com/google/snappy/blob/main/format_description.txt say what is read here.
"""

import bisect
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64


_FRAGMENT = 1 << 16  # bytes that Snappy's encoder compresses at a time, without looking back
_HEADER = 1 << 16  # bytes of a page's header, at most, with its statistics
_LARGEST = 1 << 31  # bytes of a page, as Parquet counts them
_MOST = 1 << 24  # values in a page
# Bytes of a page for each of its stored ones: more than any codec makes of images.
_EXPANSION = 1100
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # kinds of pages
_PLAIN, _BY_DICTIONARY = (0,), (2, 8)  # encodings


class Place(NamedTuple):
    """Where a value lies: `stored` bytes of the file from `start`, which `codec` makes `decoded`
    bytes, of which `size` from `skip` are the value, of this CRC-32. Without a codec the stored
    bytes are the value. A value of no bytes lies nowhere."""

    start: int
    stored: int
    decoded: int
    skip: int
    size: int
    checksum: int
    codec: str


class Chunk(NamedTuple):
    """The column of one row group: its first byte and its bytes, its values, its compression, and
    the level of definition of a value that is not null."""

    start: int
    size: int
    num_values: int
    codec: str
    level: int


def value_of(place: Place, stored: bytes) -> bytes:
    """The value in the bytes that are stored at its place; `ValueError` if they are others."""
    value = stored
    if place.codec:
        data = _varint_bytes(place.decoded) + stored if place.codec == "snappy" else stored
        value = _decompressed(data, place.decoded, place.codec)[place.skip :][: place.size]
    if zlib.crc32(value) != place.checksum:
        raise ValueError("Its bytes are not those that were indexed: is the file damaged?")
    return value


def places(chunk: Chunk, read: Any) -> Iterator[Place | None]:
    """The place of each value of a chunk, None for a null.

    `read(start, stop)` gives bytes of the file. Raises `ValueError` for pages that are damaged, or
    of an encoding other than PLAIN and by dictionary.
    """
    try:
        yield from _places(chunk, read)
    except (LookupError, TypeError, struct.error, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"The pages are damaged: {error}") from error


def _places(chunk: Chunk, read: Any) -> Iterator[Place | None]:
    position, end, count = chunk.start, chunk.start + chunk.size, 0
    dictionary: list[Place] = []
    while position < end and count < chunk.num_values:
        window = read(position, min(position + _HEADER, end))
        header, length = _struct(window, 0)
        start = position + length
        stored, decoded = header[3], header[2]
        position = start + stored
        if not (0 <= stored and position <= end):
            raise ValueError(f"A page of {stored} bytes ends behind its column.")
        if not 0 <= decoded < min(_LARGEST, _EXPANSION * (stored + 64)):
            raise ValueError(f"A page of {stored} bytes says that it holds {decoded}.")
        if header[1] == _DICTIONARY:
            page = _Page(start, read(start, position), decoded, chunk.codec)
            dictionary = list(page.values(page.data, 0, header[7][1]))
        elif header[1] in (_DATA, _DATA_V2):
            found = _data_page(header, start, read(start, position), chunk, dictionary)
            count += len(found)
            yield from found
    if count != chunk.num_values:
        raise ValueError(f"The pages hold {count} values in place of {chunk.num_values}.")


def _data_page(
    header: dict[int, Any], start: int, data: bytes, chunk: Chunk, dictionary: list[Place]
) -> list[Place | None]:
    """The places of a page's values, and None for its nulls."""
    width = chunk.level.bit_length()
    if header[1] == _DATA:
        about = header[5]
        number, encoding, position = about[1], about[2], 0
        page, levels = _Page(start, data, header[2], chunk.codec), b""
        if chunk.level:
            (size,) = struct.unpack_from("<I", page.data)
            levels, position = page.data[4 : 4 + size], 4 + size
    else:  # levels lie before the values, never compressed
        about = header[8]
        number, encoding, position = about[1], about[4], 0
        front = about[6] + about[5]
        levels, codec = data[about[6] : front], chunk.codec if about.get(7, True) else ""
        page = _Page(start + front, data[front:], header[2] - front, codec)
    if not 0 <= number <= min(chunk.num_values, _MOST):
        raise ValueError(f"A page says that it has {number} values.")
    valid = _runs(levels, width, number) == chunk.level
    count = int(valid.sum())
    if encoding in _PLAIN:
        values = page.values(page.data, position, count)
    elif encoding in _BY_DICTIONARY:
        numbers = _runs(page.data[position + 1 :], page.data[position], count) if count else []
        values = (dictionary[k] for k in numbers)
    else:
        raise ValueError(f"The images have Parquet's encoding {encoding}: expected PLAIN.")
    return [next(values) if is_value else None for is_value in valid]


class _Page:
    """The content of a page, and where in the file it is."""

    def __init__(self, start: int, stored: bytes, decoded: int, codec: str):
        self.start, self.stored, self.codec = start, len(stored), codec
        self.data = _decompressed(stored, decoded, codec) if codec else stored
        self.bounds = _fragments(stored, decoded) if codec == "snappy" else None

    def values(self, data: bytes, position: int, number: int) -> Iterator[Place]:
        """The places of values that are written one after the other, each behind its length."""
        for _ in range(number):
            (size,) = struct.unpack_from("<I", data, position)
            position += 4
            if position + size > len(data):
                raise ValueError("A value ends behind its page.")
            yield self._place(position, size)
            position += size

    def _place(self, position: int, size: int) -> Place:
        if not size:  # of which nothing need be read
            return Place(self.start, 0, 0, 0, 0, 0, "")
        checksum = zlib.crc32(memoryview(self.data)[position : position + size])
        if not self.codec:
            return Place(self.start + position, size, size, 0, size, checksum, "")
        if self.bounds is None:
            whole = self.start, self.stored, len(self.data)
            return Place(*whole, position, size, checksum, self.codec)
        decoded, stored = self.bounds
        first = bisect.bisect_right(decoded, position) - 1
        last = bisect.bisect_left(decoded, position + size)
        start, skip = self.start + stored[first], position - decoded[first]
        sizes = stored[last] - stored[first], decoded[last] - decoded[first]
        return Place(start, *sizes, skip, size, checksum, self.codec)


def _fragments(data: bytes, decoded: int) -> tuple[list[int], list[int]]:
    """Positions in Snappy's output and input between which nothing refers to what is before.

    Elements are walked, not decoded. A fragment starts where the output has come to a multiple of
    64 KiB and no later element looks back beyond it.
    """
    length, position = _varint(data, 0)
    if length != decoded:
        raise ValueError("Snappy's length is not that of its page.")
    outputs, inputs, output = [0], [position], 0
    while position < len(data):
        tag = data[position]
        kind, size = tag & 3, (tag >> 2) + 1
        position += 1
        if kind == 0:
            if size > 60:
                extra = size - 60
                size = int.from_bytes(data[position : position + extra], "little") + 1
                position += extra
            position += size
        else:
            extra = (1, 2, 4)[kind - 1]
            offset = int.from_bytes(data[position : position + extra], "little")
            if kind == 1:
                size, offset = (tag >> 2 & 7) + 4, offset | (tag >> 5) << 8
            position += extra
            while outputs[-1] > output - offset:  # it looks back into the fragment before
                if len(outputs) == 1:
                    raise ValueError("Snappy's data look back beyond their start.")
                outputs.pop()
                inputs.pop()
        output += size
        if output - outputs[-1] >= _FRAGMENT and output % _FRAGMENT == 0:
            outputs.append(output)
            inputs.append(position)
    if output != decoded or position != len(data):
        raise ValueError("Snappy's data are cut short.")
    if outputs[-1] == output:
        return outputs, inputs
    return [*outputs, output], [*inputs, position]


def _decompressed(data: bytes, decoded: int, codec: str) -> bytes:
    return pa.decompress(data, decompressed_size=decoded, codec=codec, asbytes=True)


def _runs(data: bytes, width: int, number: int) -> Int64[np.ndarray, " number"]:
    """`number` integers of Parquet's hybrid of runs and bit-packed groups of eight."""
    if width > 32:
        raise ValueError(f"Integers of {width} bits are none of Parquet's.")
    found = np.zeros(number, np.int64)
    filled, position, size = 0, 0, (width + 7) // 8
    while filled < number and width:
        run, position = _varint(data, position)
        if run & 1:
            end = min(position + (run >> 1) * width, len(data))
            bits = np.unpackbits(np.frombuffer(data[position:end], np.uint8), bitorder="little")
            bits = bits[: len(bits) // width * width].reshape(-1, width)
            values = bits[: number - filled].astype(np.int64) @ (1 << np.arange(width))
            position = end
        else:
            value = int.from_bytes(data[position : position + size], "little")
            values = np.broadcast_to(value, min(run >> 1, number - filled))
            position += size
        if not len(values):
            raise ValueError("A run of integers is empty, or cut short.")
        found[filled : filled + len(values)] = values
        filled += len(values)
    return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("An integer is too long.")


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _struct(data: bytes, position: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol, its fields by number, and where it ends."""
    if depth > 8:
        raise ValueError("A page's header is nested too deep.")
    fields: dict[int, Any] = {}
    number = 0
    while (byte := data[position]) != 0:
        position += 1
        kind = byte & 15
        if byte >> 4:
            number += byte >> 4
        else:
            value, position = _varint(data, position)
            number = _signed(value)
        fields[number], position = _field(data, position, kind, depth)
    return fields, position + 1


def _field(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, position
    if kind == 3:
        return data[position], position + 1
    if kind in (4, 5, 6):
        value, position = _varint(data, position)
        return _signed(value), position
    if kind == 8:
        size, position = _varint(data, position)
        return data[position : position + size], position + size
    if kind == 12:
        return _struct(data, position, depth + 1)
    raise ValueError(f"A page's header has a field of kind {kind}.")


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
