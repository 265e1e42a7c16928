"""The container of a file of weights, by its name."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .npz import NpzFile
from .safetensors import SafetensorsFile
from .sharded import INDEX_SUFFIX, ShardedFiles
from .torch_zip import TorchFile


TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".npz")

if TYPE_CHECKING:
    Container = SafetensorsFile | ShardedFiles | TorchFile | NpzFile
else:
    Container = Any  # an executed annotation would read a tensor


def open_weights(path: Path) -> Container:
    """The tensors of a file, or of the files of an index, by name, for a `with` block."""
    if path.name.endswith(INDEX_SUFFIX):
        return ShardedFiles(path)
    if path.suffix == ".npz":
        return NpzFile(path)
    return TorchFile(path) if path.suffix in TORCH_SUFFIXES else SafetensorsFile(path)
