"""WebDataset's tar shards, read in place at random: an index of where members lie."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ._files import File, opened, read
from ._index import logger
from ._shards import ShardedSource
from ._source import Example


_BLOCK = 512  # of a tar file

Member = tuple[str, int, int]  # name, first byte, size


class WebDatasetSource(ShardedSource):
    """Samples of tar shards: consecutive members whose names agree up to the first dot.

    `image_key` and `text_key` are extensions, or several with semicolons between them, of which a
    sample has one; by default those of OpenCLIP, `jpg;png;jpeg;webp` and `txt`. Samples without an
    image or a text are left out, as OpenCLIP does, with a warning that counts them.

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
        }
    )

    def _open(self) -> str:
        self._extensions: Counter[str] = Counter()
        return super()._open()

    def where(self, i: int) -> str:
        file, name, *_ = self._entry(i)
        return f"{file.url}, sample {name!r}"

    def _kept(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return _several(self.image_key, self.image_keys), _several(self.text_key, self.text_keys)

    def _contents(self) -> str:
        found = ", ".join(f"{name!r} ({count})" for name, count in self._extensions.most_common(20))
        image, text = (";".join(keys) for keys in self._kept())
        return (
            f"No sample has both an image ({image}) and a text ({text}): its members are "
            f"{found or 'none'}. Pass `image_key=` and `text_key=`."
        )

    def _indexed(self, file: File) -> dict[str, np.ndarray]:
        image_keys, text_keys = self._kept()
        rows, left_out = [], 0
        for name, members in _samples(file):
            self._extensions.update(members)
            image = next((members[key] for key in image_keys if key in members), None)
            text = next((members[key] for key in text_keys if key in members), None)
            if image is None or text is None:
                left_out += 1
            else:
                rows.append((name, *image, *text))
        if left_out:
            logger.warning("%s: %d samples have no image or no text.", file.url, left_out)
        columns = zip(*rows, strict=True) if rows else ((),) * 5
        return dict(zip(self.schema.names[1:], map(np.array, columns), strict=True))

    def _read(self, i: int) -> Example:
        file, _, image, image_size, text, text_size = self._entry(i)
        start = min(image, text)  # members of a sample lie together: one request
        data = read(file.url, start, max(image + image_size, text + text_size))
        text_bytes = data[text - start :][:text_size]
        return {"image": data[image - start :][:image_size], "text": text_bytes.decode()}


def _several(key: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return usual if key is None else tuple(key.lower().split(";"))


def _samples(file: File) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The samples of a shard: their names, and where each extension's bytes lie."""
    current, members = None, {}
    for path, start, size in _members(file):
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
        members[extension] = (start, size)
    if current is not None:
        yield current, members


def _members(file: File) -> Iterator[Member]:
    """The files in a tar file, which must end as tar files do: with a block of zeros."""
    with opened(file.url) as stream:
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
        if end >= file.size or any(stream.read(_BLOCK)):
            raise ValueError(
                f"{file.url} ends early, or is damaged, at byte {end} of {file.size}: there is no "
                "end-of-archive block. Download it again."
            )
