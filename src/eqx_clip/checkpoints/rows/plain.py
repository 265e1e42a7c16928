"""A state dict by the plain names of its format, small tensors edited on the way."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .state_dict import Shaped, read_tensor


Edit = Callable[[np.ndarray], np.ndarray]  # of a small tensor, on its way in
Edits = Mapping[str, Edit]


class PlainTensors(Mapping[str, Any]):
    """Tensors by plain names; each is read when it is asked for.

    `names` has the tensor's own name for every plain one; `edits` are by plain names, applied once.
    """

    def __init__(self, tensors: Mapping[str, Any], names: Mapping[str, str], edits: Edits):
        self._tensors, self._names, self._edits = tensors, names, edits
        self._edited: dict[str, np.ndarray] = {}

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor, where it is known without reading the tensor."""
        if key in self._edits:
            return self[key].shape
        tensors = self._tensors
        return tensors.shape(self._names[key]) if isinstance(tensors, Shaped) else None

    def __getitem__(self, key: str) -> Any:
        if key not in self._edits:
            return self._tensors[self._names[key]]
        if key not in self._edited:
            self._edited[key] = self._edits[key](read_tensor(self._tensors, self._names[key]))
        return self._edited[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
