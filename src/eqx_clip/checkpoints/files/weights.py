"""The container of a file of weights, by its name."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .safetensors import SafetensorsFile
from .sharded import INDEX_SUFFIX, ShardedFiles


if TYPE_CHECKING:
    Container = SafetensorsFile | ShardedFiles
else:
    Container = Any  # an executed annotation would read a tensor


def open_weights(path: Path) -> Container:
    """The tensors of a file, or of the files of an index, by name, for a `with` block."""
    return ShardedFiles(path) if path.name.endswith(INDEX_SUFFIX) else SafetensorsFile(path)
