"""WebDataset's tar shards, read in place at random: an index of where members lie."""

import itertools
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from ._fields import key_path, keys_with_extension, several, text_in
from ._files import File, opened, read
from ._index import logger
from ._shards import ShardedSource
from ._source import Example, log_keys


_END = 1 << 20  # bytes looked at behind the last member; tar's usual padding is a hundredth


class WebDatasetSource(ShardedSource):
    """Samples of tar shards: consecutive members whose names agree up to the first dot.

    `image_key` and `text_key` are extensions, or several with semicolons between them, of which a
    sample has one; by default those of OpenCLIP, `jpg;png;jpeg;webp` and `txt`. A text in a JSON
    member is a field of it, `json:caption`, or the first that has one of several
    (`json:caption;json:title`); a list there is several texts of the image. Samples
    without an image are left out, as OpenCLIP does, with a warning that counts them; those without
    a text have none.

    Raises `ValueError` for a tar file that ends early, and for two members of one name.
    """

    image_keys = ("jpg", "png", "jpeg", "webp")
    text_keys = ("txt",)
    file_name = re.compile(r".*\.tar")
    file_kind = "WebDataset shards (`*.tar`)"
    schema = pa.schema(
        {
            **{"shard": pa.int32(), "name": pa.string()},
            **{"image": pa.int64(), "image_size": pa.int64()},
            **{"text": pa.int64(), "text_size": pa.int64()},
            **{"text_checksum": pa.uint32(), "text_key": pa.string()},
        }
    )

    def where(self, i: int) -> str:
        file, name, *_ = self._entry(i)
        return f"{file.url}, sample {name!r}"

    def _kept(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return several(self.image_key, self.image_keys), several(self.text_key, self.text_keys)

    def _open(self) -> str:
        mark = super()._open()
        if self.image_key is None or self.text_key is None:
            log_keys(self.path, *(";".join(keys) for keys in self._kept()))
        return mark

    def _batches(self) -> Iterator[pa.RecordBatch]:
        self._check_keys()
        texts = 0
        for batch in super()._batches():
            texts += len(batch) - batch.column("text").null_count
            yield batch
        if not texts:  # said here, such an index is not kept
            raise ValueError(f"{self.path} holds no texts. {self._contents()}")

    def _check_keys(self) -> None:
        """Refuses a JSON member for a text: it is a field of it that holds one."""
        if "json" not in several(self.text_key, self.text_keys):
            return
        fields: list[str] = []
        for _, members in _samples(self._files[0]):
            if "json" in members:
                member = members["json"]
                fields = _fields(read(self._files[0].url, *_range(member.start, member.size)))
                break
        named = ", ".join(f"'json:{name}'" for name in fields) or "none"
        raise ValueError(
            "The key 'json' is a whole JSON member, not a text: name a field of it. In the first "
            f"of {self.path} they are {named}."
        )

    def _contents(self) -> str:
        samples = itertools.chain.from_iterable(map(_samples, self._files))
        extensions = Counter(name for _, members in samples for name in members)
        found = ", ".join(f"{name!r} ({count})" for name, count in extensions.most_common(20))
        image, text = (";".join(keys) for keys in self._kept())
        return (
            f"No sample, which is consecutive members of one name, has both an image ({image}) and "
            f"a text ({text}): the members are {found or 'none'}. Pass `image_key=` and "
            "`text_key=`."
        )

    def _indexed(self, file: File) -> dict[str, list]:
        image_keys, text_keys = self._kept()
        extensions = {key: key_path(key)[0] for key in text_keys}
        rows, left_out = [], 0
        for name, members in _samples(file, set(extensions.values())):
            image = next((members[key] for key in image_keys if key in members), None)
            key = next((key for key in text_keys if extensions[key] in members), None)
            if image is None:
                left_out += 1
                continue
            text = (None, None, None) if key is None else members[extensions[key]]
            rows.append((name, image.start, image.size, *text, key))
        if left_out:
            logger.warning("%s: %d samples have no image.", file.url, left_out)
        columns = map(list, zip(*rows, strict=True)) if rows else [[]] * 7
        return dict(zip(self.schema.names[1:], columns, strict=True))

    def stored(self, rows: range) -> Iterator[Any]:
        """The samples' names, the sizes of their images, and the checksums of their texts."""
        for column in (self._columns[k] for k in (1, 3, 6)):
            yield column[rows.start : rows.stop].to_pylist()

    def image_size(self, i: int) -> int | None:
        return self._columns[3][i].as_py()

    def text(self, i: int) -> str | list[str] | None:
        file, _, _, _, start, size, _, key = self._entry(i)
        return None if start is None else self._text(i, key, read(file.url, *_range(start, size)))

    def _read(self, i: int) -> Example:
        file, _, image, image_size, text, text_size, _, key = self._entry(i)
        if text is None:
            return {"image": read(file.url, *_range(image, image_size)), "text": None}
        start = min(image, text)  # members of a sample lie together: one request
        data = read(file.url, start, max(image + image_size, text + text_size))
        text = self._text(i, key, data[text - start :][:text_size])
        return {"image": data[image - start :][:image_size], "text": text}

    def _text(self, i: int, key: str, data: bytes) -> str | list[str] | None:
        """The text of example `i` in the bytes of its member, in which the index found a key."""
        keys = keys_with_extension(key, self._kept()[1])
        try:
            return text_in(data, keys, f"The member {key_path(key)[0]!r}")
        except ValueError as error:
            raise ValueError(f"{self.where(i)}: {error}") from error.__cause__


def _range(start: int, size: int) -> tuple[int, int]:
    return start, start + size


def _fields(data: bytes) -> list[str]:
    """The names in a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return list(value) if isinstance(value, dict) else []


class _Member(NamedTuple):
    """Where the bytes of a member lie, and the checksum of those of a text."""

    start: int
    size: int
    checksum: int | None


def _samples(file: File, texts: Collection[str] = ()) -> Iterator[tuple[str, dict[str, _Member]]]:
    """The samples of a shard: their names, and the members by extension, `texts` read at once."""
    current, members = None, {}
    with opened(file.url) as stream:
        for path, start, size in _members(file, stream):
            folder, slash, base = path.rpartition("/")
            stem, dot, extension = base.partition(".")
            if not dot or not stem:
                continue
            name, extension = folder + slash + stem, extension.lower()
            if name != current:
                if current is not None:
                    yield current, members
                current, members = name, {}
            if extension in members:
                raise ValueError(f"{file.url} holds {path!r} twice in one sample.")
            checksum = None
            if extension in texts:
                stream.seek(start)
                checksum = zlib.crc32(stream.read(size))
            members[extension] = _Member(start, size, checksum)
        if current is not None:
            yield current, members


def _members(file: File, stream: Any) -> Iterator[tuple[str, int, int]]:
    """The names, first bytes and sizes of the files in a tar file, which must end as tar files do:
    with nothing but zeros."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield member.name, member.offset_data, member.size
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"{file.url} is not a whole, uncompressed tar file ({error}). "
            "Download or unpack it again."
        ) from error
    stream.seek(end)
    rest = stream.read(_END)
    if not rest or rest.strip(b"\0"):
        raise ValueError(
            f"{file.url} ends early, or is damaged, at byte {end} of {file.size}: there are no "
            "zeros as at the end of a tar file. Download it again."
        )
