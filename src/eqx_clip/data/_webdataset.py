"""WebDataset's tar shards, read in place at random: an index of where members lie."""

import itertools
import re
import tarfile
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from ._files import File, opened, read
from ._index import logger
from ._shards import ShardedSource
from ._source import Example


_END = 1 << 20  # bytes looked at behind the last member; tar's usual padding is a hundredth

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

    def where(self, i: int) -> str:
        file, name, *_ = self._entry(i)
        return f"{file.url}, sample {name!r}"

    def _kept(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return _several(self.image_key, self.image_keys), _several(self.text_key, self.text_keys)

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
        rows, left_out = [], 0
        for name, members in _samples(file):
            image = next((members[key] for key in image_keys if key in members), None)
            text = next((members[key] for key in text_keys if key in members), None)
            if image is None or text is None:
                left_out += 1
            else:
                rows.append((name, *image, *text))
        if left_out:
            logger.warning("%s: %d samples have no image or no text.", file.url, left_out)
        columns = map(list, zip(*rows, strict=True)) if rows else [[]] * 5
        return dict(zip(self.schema.names[1:], columns, strict=True))

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
    """The files in a tar file, which must end as tar files do: with nothing but zeros."""
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
        rest = stream.read(_END)
        if not rest or rest.strip(b"\0"):
            raise ValueError(
                f"{file.url} ends early, or is damaged, at byte {end} of {file.size}: there are no "
                "zeros as at the end of a tar file. Download it again."
            )
