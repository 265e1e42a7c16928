"""Rows of a name table: which tensors of another format a leaf of ours is made of, and how.

A row says where its tensors lie in the leaf, as views of it. Written into, the views fill the leaf;
read, they are the tensors. So one row loads and saves, to the same bits.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One leaf, or one layer of it where the names hold `{i}`, as tensors of another format.

    - `tensors`: their names; `{i}` counts the layers of a stack, from `first`.
    - `views`: of a layer's array, the tensors in it, in the order of their names.
    - `part`: (start, stop, count) where the leaf is but a part of its tensor, of so many equal ones
      along the first axis; other rows have the others.

    A leaf that the other format does not have has no tensors: it is loaded as zeros, and saved only
    if it is zero.
    """

    tensors: tuple[str, ...]
    views: Callable[[np.ndarray], Sequence[np.ndarray]] = lambda leaf: (leaf,)
    first: int = 0
    part: tuple[int, int, int] | None = None

    @property
    def stacked(self) -> bool:
        return any("{i}" in name for name in self.tensors)

    def names(self, layer: int) -> tuple[str, ...]:
        """The names of a layer's tensors."""
        return tuple(name.format(i=self.first + layer) for name in self.tensors)

    def shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The shapes of the tensors in an array of this shape."""
        views = self.views(np.broadcast_to(np.int8(), shape))
        return tuple(self.whole(view.shape) for view in views)

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor of which a view of this shape is a part, or all."""
        if self.part is None:
            return shape
        start, stop, count = self.part
        return (shape[0] * count // (stop - start), *shape[1:])

    def within(self, tensor: np.ndarray) -> np.ndarray:
        """What of a tensor is in the leaf."""
        if self.part is None:
            return tensor
        start, stop, count = self.part
        return tensor[len(tensor) * start // count : len(tensor) * stop // count]


Table = Mapping[str, Row]  # by the path of a leaf


def tensor(name: str) -> Row:
    """The leaf as it is."""
    return Row((name,))


def transposed(name: str) -> Row:
    """The leaf with its axes in reverse, such as (in, out) for (out, in)."""
    return Row((name,), lambda leaf: (leaf.T,))


def with_axis(name: str, axis: int = 0) -> Row:
    """The leaf with one more axis, of one."""
    return Row((name,), lambda leaf: (np.expand_dims(leaf, axis),))


def joined(*names: str, sizes: Sequence[int] | None = None) -> Row:
    """Tensors one after the other along the first axis, equal or in the proportion of `sizes`."""
    parts = np.cumsum(sizes or [1] * len(names))

    def views(leaf: np.ndarray) -> list[np.ndarray]:
        return np.split(leaf, parts[:-1] * len(leaf) // parts[-1])

    return Row(names, views)


def part_of(name: str, start: int, stop: int, count: int) -> Row:
    """The leaf as a part of a tensor, from `start` to `stop` of `count` along the first axis."""
    return Row((name,), part=(start, stop, count))


def with_heads(*names: str, heads: int) -> Row:
    """Linear weights (heads * size, in), joined along the first axis, each as (in, heads, size); or
    their biases, each as (heads, size)."""

    def views(leaf: np.ndarray) -> list[np.ndarray]:
        parts = np.split(leaf, len(names))
        return [
            np.moveaxis(part.reshape(heads, -1, *part.shape[1:]), (0, 1), (-2, -1))
            for part in parts
        ]

    return Row(names, views)


def from_heads(name: str, heads: int) -> Row:
    """A linear weight (out, heads * size) as (heads, size, out)."""
    return Row((name,), lambda leaf: (np.moveaxis(leaf.reshape(len(leaf), heads, -1), 0, -1),))


def channels_last(name: str) -> Row:
    """The weight of a convolution, (out, in, height, width), as (height, width, in, out)."""
    return Row((name,), lambda leaf: (leaf.transpose(2, 3, 1, 0),))


def absent() -> Row:
    """A leaf that the other format does not have, of zeros."""
    return Row((), lambda leaf: ())


def renamed(names: Mapping[str, str]) -> dict[str, Row]:
    """A table of leaves that are tensors as they are."""
    return {ours: tensor(theirs) for ours, theirs in names.items()}


def nested(table: Table, ours: str, theirs: str, first: int = 0) -> dict[str, Row]:
    """The table with prefixes before our paths and before the tensors' names."""
    return {
        f"{ours}{path}": dataclasses.replace(
            row, tensors=tuple(f"{theirs}{name}" for name in row.tensors), first=first or row.first
        )
        for path, row in table.items()
    }


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row with the leaf of a model that it is about."""

    path: str
    leaf: Any  # an array, or a `jax.ShapeDtypeStruct`
    row: Row

    @property
    def layers(self) -> int:
        """How many arrays the leaf is made of."""
        return self.leaf.shape[0] if self.row.stacked else 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by its name."""
        shapes = self.row.shapes(self.leaf.shape[1:] if self.row.stacked else self.leaf.shape)
        return {
            name: shape
            for layer in range(self.layers)
            for name, shape in zip(self.row.names(layer), shapes, strict=True)
        }

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(name for layer in range(self.layers) for name in self.row.names(layer))

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return self.layers * len(self.row.tensors)

    def views(self, leaf: np.ndarray, layer: int) -> Sequence[np.ndarray]:
        """Where the tensors of a layer lie in `leaf`."""
        return self.row.views(leaf[layer, ...] if self.row.stacked else leaf)
