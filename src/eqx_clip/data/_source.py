"""A source: a sequence of examples, each the bytes of one encoded image and its text."""

import abc
import bisect
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from .._checks import did_you_mean
from .._types import Count, PathLike, Real
from ._fields import key_path
from ._files import normalized
from ._index import logger


class Example(TypedDict):
    """One image as it is stored (JPEG, PNG, WebP, ...) and its text.

    Several texts of one image are a list; None is no text at all.
    """

    image: bytes
    text: str | list[str] | None


class AbstractSource(abc.ABC):
    """A sequence of examples, read when asked for.

    It has what TFDS, Grain and PyTorch ask of a random-access source: `len()`, `source[i]`,
    `__getitems__`. It pickles as a path, not as data.
    """

    # Whether reading waits for a network: several examples are then read at once.
    remote = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def where(self, i: int) -> str:
        """Where example `i` is stored, for people."""

    @abc.abstractmethod
    def _read(self, i: int) -> Example: ...

    def text(self, i: int) -> str | list[str] | None:
        """The text of example `i`, without its image where that is stored apart."""
        return self._read(i)["text"]

    def image_name(self, i: int) -> str | None:
        """The place of the file that is the image of example `i`, which several examples may name;
        None where the image lies in the example."""
        return None

    def image_size(self, i: int) -> int | None:
        """The bytes of an image without a name, where that is known before it is read."""
        return None

    def stored(self, rows: range) -> Iterator[Any]:
        """What tells examples from others without their pixels: names, sizes, texts, checksums.

        `fingerprint` hashes it. It does not depend on where the data lie, nor on times of files.
        """
        return iter(())

    def __getitem__(self, i: Count) -> Example:
        i, count = operator.index(i), len(self)
        if not -count <= i < count:
            raise IndexError(f"Example {i} of {count} was asked for.")
        return self._read(i % count)

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        return [self[i] for i in indices]

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))


class FileSource(AbstractSource):
    """A source that one path names. In a worker it is opened again, and must be the same data."""

    # Names under which data sets keep images and texts, for when none is given.
    image_keys: tuple[str, ...]
    text_keys: tuple[str, ...]

    def __init__(self, path: PathLike, image_key: str | None = None, text_key: str | None = None):
        self.path = normalized(path)
        self.image_key, self.text_key = image_key, text_key
        self.mark = self._open()
        self.remote = self._is_remote()

    def _is_remote(self) -> bool:
        return "://" in self.path

    @abc.abstractmethod
    def _open(self) -> str:
        """Looks at the data, raises for what is wrong with it, and gives a mark of its content."""

    def _arguments(self) -> tuple[Any, ...]:
        """What opens the same data again."""
        return self.path, self.image_key, self.text_key

    def __reduce__(self):
        return _open_again, (type(self), self._arguments(), self.mark)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {len(self)} examples)"

    def _find_keys(self, found: Sequence[str]) -> None:
        """Sets the keys not given to those of `found` that are usual."""
        guessed = self.image_key is None or self.text_key is None
        self.image_key = self._key("image", self.image_key, self.image_keys, found)
        self.text_key = self._key("text", self.text_key, self.text_keys, found)
        if self.image_key == self.text_key:
            raise ValueError(f"image_key and text_key are the same, {self.text_key!r}.")
        if guessed:
            log_keys(self.path, self.image_key, self.text_key)

    def _key(self, role: str, given: str | None, usual: Sequence[str], found: Sequence[str]) -> str:
        names = ", ".join(map(repr, found)) or "nothing"
        if given is not None:
            if given in found or key_path(given)[0] in found:
                return given
            hint = did_you_mean(given, found)
            raise ValueError(f"{self.path} has no {role}_key {given!r}: it holds {names}.{hint}")
        candidates = [name for name in usual if name in found]
        if len(candidates) != 1:
            problem = "several" if candidates else "none"
            raise ValueError(
                f"Of what {self.path} holds, {names}, {problem} may be the {role}: pass "
                f"`{role}_key=`."
            )
        return candidates[0]


def log_keys(path: str, image_key: str, text_key: str) -> None:
    """Says which keys were taken where none were given."""
    logger.info("%s: images are %r, texts are %r.", path, image_key, text_key)


def _open_again(kind: type[FileSource], arguments: tuple[Any, ...], mark: str) -> FileSource:
    source = kind(*arguments)
    if source.mark != mark:
        raise ValueError(f"{source.path} has changed since it was opened. Open it again.")
    return source


class Subset(AbstractSource):
    """Ranges of another source, one after the other."""

    def __init__(self, source: AbstractSource, ranges: Sequence[range]):
        self.source = source
        self.ranges = tuple(ranges)
        self.remote = source.remote
        self._starts = (0, *itertools.accumulate(map(len, self.ranges)))

    def __len__(self) -> int:
        return self._starts[-1]

    def where(self, i: int) -> str:
        return self.source.where(self._index(i))

    def _read(self, i: int) -> Example:
        return self.source[self._index(i)]

    def text(self, i: int) -> str | list[str] | None:
        return self.source.text(self._index(i))

    def image_name(self, i: int) -> str | None:
        return self.source.image_name(self._index(i))

    def image_size(self, i: int) -> int | None:
        return self.source.image_size(self._index(i))

    def stored(self, rows: range) -> Iterator[Any]:
        for start, part in zip(self._starts, self.ranges, strict=False):
            low, high = max(rows.start, start), min(rows.stop, start + len(part))
            if low < high:
                yield from self.source.stored(part[low - start : high - start])

    def __repr__(self) -> str:
        return f"Subset({self.source!r}, {len(self)} examples)"

    def _index(self, i: int) -> int:
        k = bisect.bisect_right(self._starts, i) - 1
        return self.ranges[k][i - self._starts[k]]


class Mixture(AbstractSource):
    """Sources one after the other, of which an epoch draws each by its factor.

    A factor of 2 draws every example of its source twice an epoch, one of 0.5 draws half of them,
    the other half in the next epoch: OpenCLIP's `::` with `--train-data-upsampling-factors`. As a
    sequence, it is all examples once; the factors are for `batches`.

    **Arguments:**

    - `sources`: any sources. Of a mixture among them the sources are taken, its factors multiplied.
    - `factors`: one positive number for each source, by default all 1.

    Raises `ValueError` for factors that are not positive, or so small that an epoch draws nothing.
    """

    def __init__(self, sources: Sequence[Any], factors: Sequence[Real] | None = None):
        sources = tuple(sources)
        factors = tuple(map(float, [1] * len(sources) if factors is None else factors))
        if not sources or len(factors) != len(sources):
            raise ValueError(
                f"Expected one factor for each source; got {len(factors)} factors for "
                f"{len(sources)} sources."
            )
        if not all(0 < factor < float("inf") for factor in factors):
            raise ValueError(f"Factors must be above 0; got {factors}.")
        self.sources, self.factors = _flat(sources, factors)
        for source, factor in zip(self.sources, self.factors, strict=True):
            if not round(factor * len(source)):
                raise ValueError(
                    f"By its factor, {factor:g}, an epoch has none of the {len(source)} examples "
                    f"of {source!r:.80}: make the factor larger, or leave the source out."
                )
        self.remote = any(is_remote(source) for source in self.sources)
        self._starts = (0, *itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self._starts[-1]

    def where(self, i: int) -> str:
        k = bisect.bisect_right(self._starts, i) - 1
        return where(self.sources[k], i - self._starts[k])

    def __repr__(self) -> str:
        return f"Mixture({', '.join(map(repr, self.sources))}, factors={self.factors})"

    def _read(self, i: int) -> Example:
        k = bisect.bisect_right(self._starts, i) - 1
        return self.sources[k][i - self._starts[k]]

    def text(self, i: int) -> str | list[str] | None:
        k = bisect.bisect_right(self._starts, i) - 1
        return text_at(self.sources[k], i - self._starts[k])

    def image_name(self, i: int) -> str | None:
        k = bisect.bisect_right(self._starts, i) - 1
        return image_name(self.sources[k], i - self._starts[k])

    def image_size(self, i: int) -> int | None:
        k = bisect.bisect_right(self._starts, i) - 1
        return image_size(self.sources[k], i - self._starts[k])

    def stored(self, rows: range) -> Iterator[Any]:
        for start, source in zip(self._starts, self.sources, strict=False):
            low, high = max(rows.start, start), min(rows.stop, start + len(source))
            if low < high:
                yield from stored(source, range(low - start, high - start))


def _flat(
    sources: Sequence[Any], factors: Sequence[float]
) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """Sources, those of mixtures among them, and how often an epoch draws each."""
    flat = []
    for source, factor in zip(sources, factors, strict=True):
        if isinstance(source, Mixture):
            flat += [(s, factor * f) for s, f in zip(source.sources, source.factors, strict=True)]
        else:
            flat.append((source, factor))
    parts, products = zip(*flat, strict=True)
    return parts, products


def where(source: Any, i: int) -> str:
    """Where a source, ours or a user's, keeps example `i`."""
    return source.where(i) if hasattr(source, "where") else f"example {i} of {source!r:.80}"


def text_at(source: Any, i: int) -> Any:
    """The text of example `i` of a source, ours or a user's."""
    return source.text(i) if isinstance(source, AbstractSource) else source[i]["text"]


def image_name(source: Any, i: int) -> str | None:
    return source.image_name(i) if isinstance(source, AbstractSource) else None


def image_size(source: Any, i: int) -> int | None:
    return source.image_size(i) if isinstance(source, AbstractSource) else None


def stored(source: Any, rows: range) -> Iterator[Any]:
    return source.stored(rows) if isinstance(source, AbstractSource) else iter(())


def is_remote(source: Any) -> bool:
    return getattr(source, "remote", False)
