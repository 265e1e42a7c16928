"""Where the members of a zip archive lie in its file, of those that are stored as they are."""

import mmap
import struct
from typing import NamedTuple


# A checkpoint has one member a storage; the largest training checkpoints have some thousands.
MOST_MEMBERS = 1_000_000
_END, _LOCATOR, _END64, _CENTRAL, _LOCAL = (
    b"PK\5\6",
    b"PK\6\7",
    b"PK\6\6",
    b"PK\1\2",
    b"PK\3\4",
)
_FULL = 0xFFFFFFFF  # a size or an offset that is in the zip64 field instead


class Member(NamedTuple):
    """A member as the archive's directory describes it: nothing of it is checked yet."""

    header: int
    size: int
    packed: int
    method: int
    flags: int


def read_members(data: mmap.mmap) -> dict[str, Member]:
    """The members by their names. `ValueError` for what is no whole zip archive.

    No memory is taken by a size that the file names, and no more members are read than its bytes
    can hold.
    """
    try:
        return _read_directory(data)
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"its directory is damaged ({error}): fetch the file again") from None


def locate(data: mmap.mmap, name: str, member: Member) -> int:
    """Where the bytes of a member start. `ValueError` if it is not stored, or not within `data`."""
    if member.flags & 1:
        raise ValueError(f"its member {name!r} is encrypted: decrypt it, without compression")
    if member.method or member.size != member.packed:
        raise ValueError(f"its member {name!r} is compressed: unpack it, and zip it by `zip -0 -r`")
    try:
        mark, names, extra = struct.unpack_from("<4s22xHH", data, member.header)
    except struct.error:
        mark, names, extra = b"", 0, 0
    start = member.header + 30 + names + extra
    if mark != _LOCAL or start + member.size > len(data):
        raise ValueError(f"its member {name!r} is not whole: fetch the file again")
    return start


def _read_directory(data: mmap.mmap) -> dict[str, Member]:
    end = data.rfind(_END, max(0, len(data) - 22 - 0xFFFF))
    if end < 0 or end + 22 > len(data):
        raise ValueError(
            "its end is missing, where a zip archive has its directory: fetch the file again"
        )
    count, at = struct.unpack_from("<10xH4xI", data, end)
    if end >= 20 and data[end - 20 : end - 16] == _LOCATOR:
        (end64,) = struct.unpack_from("<8xQ", data, end - 20)
        if end64 > len(data):
            raise ValueError("its directory lies outside the file: fetch the file again")
        mark, count, at = struct.unpack_from("<4s28xQ8xQ", data, end64)
        if mark != _END64:
            raise ValueError("its zip64 directory is missing: fetch the file again")
    if count > min(MOST_MEMBERS, len(data) // 46) or at > len(data):
        raise ValueError(f"it names {count:,} members, more than it holds: fetch the file again")
    members = {}
    for _ in range(count):
        mark, flags, method, packed, size, names, extra, comment, header = struct.unpack_from(
            "<4s4xHH8xIIHHH8xI", data, at
        )
        if mark != _CENTRAL:
            raise ValueError("its directory is damaged: fetch the file again")
        name = data[at + 46 : at + 46 + names].decode()
        fields = data[at + 46 + names : at + 46 + names + extra]
        if _FULL in (size, packed, header):
            size, packed, header = _wide(fields, size, packed, header)
        if name in members:
            raise ValueError(f"it holds {name[:100]!r} twice")
        if header > len(data):
            raise ValueError(f"its member {name[:100]!r} lies outside the file")
        members[name] = Member(header, size, packed, method, flags)
        at += 46 + names + extra + comment
    return members


def _wide(fields: bytes, *values: int) -> list[int]:
    """Values of which those that are full are in the extra field of zip64, in this order."""
    at = 0
    while at + 4 <= len(fields):
        kind, size = struct.unpack_from("<HH", fields, at)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{size // 8}Q", fields, at + 4))
            return [next(numbers, _FULL) if value == _FULL else value for value in values]
        at += 4 + size
    return list(values)
