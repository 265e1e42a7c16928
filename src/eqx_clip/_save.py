"""Writes a model as OpenCLIP reads it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from ._clip import CLIP
from ._hub import CONFIG_FILE, WEIGHT_FILES
from ._openclip import to_state_dict
from ._openclip_config import config_from_open_clip, config_to_open_clip


def save(model: CLIP, folder: str | os.PathLike[str]) -> None:
    """Writes `model` into `folder`, in OpenCLIP's format: safetensors and configuration.

    `eqx_clip.load(folder)` gives the model back, equal to the bit, and OpenCLIP loads it strictly:
    `open_clip.create_model("local-dir:folder")`. The folder is made where it is missing. A model
    that is there already is replaced when, and only when, the new one is written whole; other
    files are left alone. Raises `ValueError`, before anything is written, for towers and sizes
    that OpenCLIP does not have (`eqx.tree_serialise_leaves` writes any model).
    """
    from safetensors.numpy import save_file

    config = config_to_open_clip(model)
    tensors = to_state_dict(model)
    _check_rebuilds(model, config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _draft(folder) as draft:
        save_file(tensors, draft / WEIGHT_FILES[0], metadata={"format": "pt"})
        (draft / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
        # safetensors gives its file to the owner alone; whoever may read one may read the other.
        shutil.copymode(draft / CONFIG_FILE, draft / WEIGHT_FILES[0])
        _move_in(draft, folder)


def _check_rebuilds(model: CLIP, config: Mapping[str, Any]) -> None:
    """`ValueError` if OpenCLIP, or `load`, would build another model from `config`."""
    problem = _difference(
        model, eqx.filter_eval_shape(config_from_open_clip(config).build, key=jax.random.key(0))
    )
    if problem is not None:
        raise ValueError(
            f"This model is not the one that its towers' configurations describe: {problem}. "
            "`eqx.tree_serialise_leaves(path, model)` writes any model."
        )


def _difference(model: CLIP, rebuilt: CLIP) -> str | None:
    """What differs but for the numbers, if anything."""
    ours, theirs = _shapes(model), _shapes(rebuilt)
    for path in sorted({*ours, *theirs}):
        if ours.get(path) != theirs.get(path):
            return f"{path!r} has shape {ours.get(path)}, expected {theirs.get(path)}"
    for name in ("preprocess", "tokenizer"):
        if getattr(model, name) != getattr(rebuilt, name):
            return f"`{name}` is {getattr(model, name)}, expected {getattr(rebuilt, name)}"
    if jax.tree.structure(model) != jax.tree.structure(rebuilt):
        return "it has modules of other classes, or with other options"
    return None


def _shapes(model: CLIP) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(model)
    }


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, hence on the same file system, that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".eqx_clip-", dir=folder) as draft:
        yield Path(draft)


def _move_in(draft: Path, folder: Path) -> None:
    """Puts the files of `draft` in the place of their namesakes in `folder`, all of them or none.

    Between two renamings, on the way back too, the configuration is away, and `folder` refuses to
    load rather than pair one model's weights with another's configuration. An equal configuration
    stays where it is, and the weights are exchanged in one step.
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
        for name in reversed(names):
            if (draft / f"old-{name}").exists():
                os.replace(draft / f"old-{name}", folder / name)
            elif not (draft / name).exists():  # it was moved in, where there was none
                (folder / name).unlink()
        raise


def _flush(path: Path) -> None:
    """Waits until the file is on the disk: a renaming may otherwise get there before its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
