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
    WholeFile = SafetensorsFile | TorchFile | NpzFile
    Container = WholeFile | ShardedFiles
else:
    WholeFile = Container = Any  # an executed annotation would read a tensor


def open_weights(path: Path, part: str | None = None) -> Container:
    """The tensors of a file, or of the files of an index, by name, for a `with` block.

    `part`: the key of the state dict in a file of torch's. `ValueError` for one of another file.
    """
    if part is not None:
        if path.suffix not in TORCH_SUFFIXES:
            raise ValueError(f"`part` names a state dict in a file of torch's, unlike {path}.")
        return TorchFile(path, part)
    return ShardedFiles(path, _open_file) if path.name.endswith(INDEX_SUFFIX) else _open_file(path)


def _open_file(path: Path) -> WholeFile:
    if path.suffix == ".npz":
        return NpzFile(path)
    return TorchFile(path) if path.suffix in TORCH_SUFFIXES else SafetensorsFile(path)
