"""A safetensors file as a mapping, each tensor read when it is asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of a memory-mapped file. To be used in a `with` block.

    Raises `ValueError` for a file that is cut short or that is not safetensors.
    """

    def __init__(self, path: Path):
        from safetensors import SafetensorError, safe_open

        try:
            self._file = safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file: {error}. It holds "
                f"{path.stat().st_size:,} bytes; delete it and fetch it again."
            ) from None
        self._keys = dict.fromkeys(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def __enter__(self) -> "SafetensorsFile":
        self._file.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._file.__exit__(*exception)

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._keys:
            raise KeyError(key)
        try:
            return self._file.get_tensor(key)
        except AttributeError:  # of NumPy, which has no such type
            dtype = self._file.get_slice(key).get_dtype()
            raise ValueError(
                f"Tensor {key!r} is of type {dtype}, which is not supported: convert it to "
                "float16, bfloat16 or float32."
            ) from None

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
