"""What the shapes of a state dict's tensors say of its towers."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple


Shapes = Mapping[str, tuple[int, ...]]


class TowerSizes(NamedTuple):
    """The class of a tower's configuration, and the values of those attributes that shapes tell."""

    config: type
    values: Mapping[str, Any]

    @property
    def described(self) -> str:
        """The values in words, of those that are known."""
        return ", ".join(f"{key} {value}" for key, value in self.values.items() if value)

    def are_of(self, config: Any) -> bool:
        """Whether a tower's configuration has these sizes."""
        return type(config) is self.config and all(
            getattr(config, key) == value for key, value in self.values.items()
        )


def depth_of(shapes: Shapes, name: str, first: int = 0) -> int:
    """How many layers there are, of each of which `name`, with `{i}`, is a tensor."""
    names = (name.format(i=i) for i in itertools.count(first))
    return sum(1 for _ in itertools.takewhile(lambda name: name in shapes, names))


def square(patches: int) -> tuple[int, int] | None:
    """The grid of so many patches, as far as it is a square."""
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None


def one_size(height: int, width: int) -> int | tuple[int, int]:
    """A size in pixels as configurations have it, one number for a square."""
    return height if height == width else (height, width)
