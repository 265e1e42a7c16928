"""A safetensors file as a mapping, each tensor read when it is asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


# What was read of a mapped file counts as memory until it is closed: it is, after so many bytes.
MAPPED = 1 << 26
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of a memory-mapped file. To be used in a `with` block.

    Raises `ValueError` for a file that is cut short or that is not safetensors.
    """

    note, kind = "", "safetensors"

    def __init__(self, path: Path):
        self._path, self._mapped = path, 0
        self._file: Any = self._open()
        self._keys = dict.fromkeys(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self._path, framework="numpy")
        except SafetensorError as error:
            raise ValueError(
                f"{self._path} is not a whole safetensors file: {error}. It holds "
                f"{self._path.stat().st_size:,} bytes; delete it and fetch it again."
            ) from None

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *exception) -> None:
        self._file = None

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._keys:
            raise KeyError(key)
        if self._mapped > MAPPED:
            self._file, self._mapped = None, 0
            self._file = self._open()
        try:
            tensor = self._file.get_tensor(key)
        except AttributeError:  # of NumPy, which has no such type
            dtype = self._file.get_slice(key).get_dtype()
            raise ValueError(
                f"Tensor {key!r} is of type {dtype}, which is not supported: convert it to "
                "float16, bfloat16 or float32."
            ) from None
        self._mapped += tensor.nbytes
        return tensor

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read for it."""
        return tuple(self._file.get_slice(key).get_shape())

    def dtype(self, key: str) -> str:
        """The type of a tensor's numbers."""
        name: str = self._file.get_slice(key).get_dtype()
        return _DTYPES.get(name, name)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
