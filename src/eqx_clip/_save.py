"""Writes a model as OpenCLIP reads it."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._clip import CLIP
from ._hub import CONFIG_FILE, WEIGHT_FILES
from ._openclip import to_state_dict
from ._openclip_config import config_to_open_clip


def save(model: CLIP, folder: str | os.PathLike[str]) -> None:
    """Writes `model` into `folder`, in OpenCLIP's format: safetensors and configuration.

    `eqx_clip.load(folder)` gives the model back, equal to the bit, and OpenCLIP loads it strictly:
    `open_clip.create_model("local-dir:folder")`. The folder is made where it is missing. A model
    that is there already is replaced when, and only when, the new one is written whole; other
    files are left alone. Raises `ValueError`, before anything is written, for towers and sizes
    that OpenCLIP does not have (`eqx.tree_serialise_leaves` writes any model).
    """
    from safetensors.numpy import save_file

    config = json.dumps(config_to_open_clip(model), indent=2).encode()
    tensors = to_state_dict(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _draft(folder) as draft:
        save_file(tensors, draft / WEIGHT_FILES[0], metadata={"format": "pt"})
        (draft / CONFIG_FILE).write_bytes(config)
        _move_in(draft, folder)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, hence on the same file system, that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".eqx_clip-", dir=folder) as draft:
        yield Path(draft)


def _move_in(draft: Path, folder: Path) -> None:
    """Puts the files of `draft` in the place of their namesakes in `folder`, all of them or none.

    Between two renamings the configuration is away, and `folder` refuses to load rather than pair
    one model's weights with another's configuration. An equal configuration stays where it is, and
    the weights are exchanged in one step.
    """
    for path in draft.iterdir():
        _flush(path)
    config = folder / CONFIG_FILE
    if config.is_file() and config.read_bytes() == (draft / CONFIG_FILE).read_bytes():
        os.replace(draft / WEIGHT_FILES[0], folder / WEIGHT_FILES[0])
        return
    names = (CONFIG_FILE, WEIGHT_FILES[0])
    try:
        for name in names:
            if (folder / name).exists():
                os.replace(folder / name, draft / f"old-{name}")
        for name in reversed(names):
            os.replace(draft / name, folder / name)
    except BaseException:
        for name in names:
            if (draft / f"old-{name}").exists():
                os.replace(draft / f"old-{name}", folder / name)
        raise


def _flush(path: Path) -> None:
    """Waits until the file is on the disk: a renaming may otherwise get there before its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
