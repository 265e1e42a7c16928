"""OpenCLIP's state dicts, in the many spellings that it reads itself."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..rows.state_dict import Shaped, read_tensor
from .naming import Edit


# OpenAI's own files say sizes as tensors; OpenCLIP drops them, too.
_LEGACY = ("input_resolution", "context_length", "vocab_size")
# The causal mask, which TorchScript archives hold as if it were a weight.
_MASK = "attn_mask"
# What torch puts around a model, or a part of one: in distributed training, and compiled.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class Canonical(Mapping[str, Any]):
    """A state dict that OpenCLIP reads, in its plain form; each tensor is read when asked for.

    Without the names of torch's wrappers (`module.`, `_orig_mod.`) and the prefix `text.` that
    OpenCLIP's `CustomTextCLIP` puts before the text tower; with scalars for one-element logit
    scales; and with `edits`, functions of small tensors by name, applied once. Raises `ValueError`
    where two tensors have one plain name.
    """

    def __init__(self, tensors: Any, edits: Mapping[str, Edit]):
        if not (isinstance(tensors, Mapping) and all(isinstance(key, str) for key in tensors)):
            raise ValueError("Expected a state dict, a mapping of arrays by OpenCLIP's names.")
        plain = {key: _plain(key) for key in tensors}
        self._tensors = tensors
        named = {key: name for key, name in plain.items() if not _is_dropped(name)}
        self._keys = {name: key for key, name in named.items()}
        if len(self._keys) != len(named):
            raise ValueError("The state dict has tensors twice, with and without a prefix.")
        self._edits = {"logit_scale": _scalar, "logit_bias": _scalar, **edits}
        self._edited: dict[str, np.ndarray] = {}

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor, where it is known without reading the tensor."""
        if key in self._edits:
            return self[key].shape
        tensors = self._tensors
        return tensors.shape(self._keys[key]) if isinstance(tensors, Shaped) else None

    def __getitem__(self, key: str) -> Any:
        if key not in self._edits:
            return self._tensors[self._keys[key]]
        if key not in self._edited:
            self._edited[key] = self._edits[key](read_tensor(self._tensors, self._keys[key]))
        return self._edited[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _plain(key: str) -> str:
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    return ".".join(parts).removeprefix("text.")


def _is_dropped(name: str) -> bool:
    return name in _LEGACY or name.rpartition(".")[2] == _MASK


def _scalar(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(()) if tensor.shape == (1,) else tensor
