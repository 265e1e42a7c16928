"""Arrays of a stack of layers by the names of the layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


_STACK, _LAYER = "/encoderblock/", "/encoderblock_{}/"
_KEPT = 3  # queries, keys and values are read side by side


class LayerTensors(Mapping[str, np.ndarray]):
    """Arrays of which those of a scanned stack, `encoderblock/...` with a leading axis of layers,
    go by the names that each layer has where none is scanned, `encoderblock_0/...`.

    The last three stacks are kept, so that each is read once where layers are asked for in order.
    Raises `ValueError` for layers that are there both ways.
    """

    def __init__(self, tensors: Any):
        self._tensors, self._stacks = tensors, dict[str, np.ndarray]()
        places = [place for name in tensors for place in self._places_of(name)]
        self._places = {name: (stack, layer) for name, stack, layer in places}
        if len(self._places) != len(places):
            raise ValueError("It holds layers twice, one by one and stacked.")

    def _places_of(self, name: str) -> Iterator[tuple[str, str, int | None]]:
        """The names that an array of the file has here, each with the layer that it is."""
        if _STACK not in name:
            yield name, name, None
            return
        shape = self._tensors.shape(name)
        for layer in range(shape[0] if shape else 0):
            yield name.replace(_STACK, _LAYER.format(layer)), name, layer

    def __getitem__(self, key: str) -> np.ndarray:
        name, layer = self._places[key]
        if layer is None:
            return self._tensors[name]
        if name not in self._stacks:
            for old in list(self._stacks)[: 1 - _KEPT]:
                del self._stacks[old]
            self._stacks[name] = self._tensors[name]
        return self._stacks[name][layer]

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of an array, which is not read for it."""
        name, layer = self._places[key]
        shape = self._tensors.shape(name)
        return shape if layer is None else shape[1:]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
