"""OpenCLIP's state dicts, in the many spellings that it reads itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..rows.plain import Edits, PlainTensors


# OpenAI's own files say sizes as tensors; OpenCLIP drops them, too.
_LEGACY = ("input_resolution", "context_length", "vocab_size")
# The causal mask, which TorchScript archives hold as if it were a weight.
_MASK = "attn_mask"
# What torch puts around a model, or a part of one: in distributed training, and compiled.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def plain_tensors(tensors: Any, edits: Edits) -> PlainTensors:
    """A state dict that OpenCLIP reads, in its plain form.

    Without the names of torch's wrappers (`module.`, `_orig_mod.`) and the prefix `text.` that
    OpenCLIP's `CustomTextCLIP` puts before the text tower; with scalars for one-element logit
    scales; and with `edits`. Raises `ValueError` where two tensors have one plain name.
    """
    if not (isinstance(tensors, Mapping) and all(isinstance(key, str) for key in tensors)):
        raise ValueError("Expected a state dict, a mapping of arrays by OpenCLIP's names.")
    plain = {key: _plain(key) for key in tensors}
    named = {key: name for key, name in plain.items() if not _is_dropped(name)}
    names = {name: key for key, name in named.items()}
    if len(names) != len(named):
        raise ValueError("The state dict has tensors twice, with and without a prefix.")
    return PlainTensors(tensors, names, {"logit_scale": _scalar, "logit_bias": _scalar, **edits})


def is_openais(tensors: Mapping[str, Any]) -> bool:
    """Whether a file is one of OpenAI's own, of the quick GELU, or its state dict as it was."""
    return all(name in tensors for name in _LEGACY)


def _plain(key: str) -> str:
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    return ".".join(parts).removeprefix("text.")


def _is_dropped(name: str) -> bool:
    return name in _LEGACY or name.rpartition(".")[2] == _MASK


def _scalar(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(()) if tensor.shape == (1,) else tensor
