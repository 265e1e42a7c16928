"""Writes a model as OpenCLIP reads it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from .._checks import DTYPES, short_repr
from .._clip import CLIP, CLIPConfig
from ..nn.batch_norm import is_counter
from .config import config_from_open_clip, config_to_open_clip
from .convert import check_model, skeleton, to_state_dict
from .hub import CONFIG_FILE, TOKENIZER_FILES, WEIGHT_FILES
from .tokenizer_files import files_of, is_of_files, with_files_of


if TYPE_CHECKING:
    Model = CLIP
    Folder = str | os.PathLike[str]
else:
    Model = Folder = Any  # a `ValueError` speaks first


def save(model: Model, folder: Folder) -> None:
    """Writes `model` into `folder`, in OpenCLIP's format: safetensors and configuration.

    `eqx_clip.load(folder, dtype=...)` with the model's own type gives it back, equal to the bit,
    and OpenCLIP loads it strictly: `open_clip.create_model("local-dir:folder")`. The folder is made
    where it is missing; other files in it are left alone. A model that is there already is replaced
    by one renaming once the new one is written whole, so that whenever the process ends, `load`
    finds the one or the other. Raises `ValueError`, before anything is written, for what is no
    `CLIP`, for a folder far away (`train.export` writes there), for weights of another type than
    `load` reads (float32, bfloat16, float16, float64; not float8), and for towers and sizes that
    OpenCLIP does not have (`eqx.tree_serialise_leaves` writes any model); `OSError` where the
    folder cannot be written to, such as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    check_model(model)
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ValueError(f"`folder` must be a path; got {short_repr(folder)}.")
    if "://" in os.fspath(folder):
        raise ValueError(f"{folder} is no folder here: `train.export` writes far away.")
    _check_types(model)
    config = config_to_open_clip(model)
    tensors = to_state_dict(model)
    rebuilt = with_files_of(config_from_open_clip(config), model.tokenizer)
    _check_rebuilds(model, rebuilt)
    text = json.dumps(config, indent=2)
    folder = Path(os.path.expanduser(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with _draft(folder) as draft:
        metadata = {"format": "pt", CONFIG_FILE: text}
        try:
            save_file(tensors, draft / WEIGHT_FILES[0], metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"The weights cannot be written to {folder}: {error}") from error
        (draft / CONFIG_FILE).write_text(text, encoding="utf-8")
        # safetensors gives its file to the owner alone; whoever may read one may read the other.
        shutil.copymode(draft / CONFIG_FILE, draft / WEIGHT_FILES[0])
        for name, content in files_of(model.tokenizer).items():
            (draft / name).write_bytes(content)
        _move_in(draft, folder, TOKENIZER_FILES if is_of_files(model.tokenizer) else ())


def _check_types(model: CLIP) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        dtype = str(getattr(leaf, "dtype", type(leaf).__name__))
        allowed = ("int32",) if is_counter(path) else DTYPES
        if dtype not in allowed:
            raise ValueError(
                f"{jax.tree_util.keystr(path)!r} is of {dtype}, which `load` does not read: cast "
                f"the model to one of {', '.join(DTYPES)} first, or write it by "
                "`eqx.tree_serialise_leaves(path, model)`."
            )


def _check_rebuilds(model: CLIP, config: CLIPConfig) -> None:
    """`ValueError` if OpenCLIP, or `load`, would build another model than this, by `config`."""
    problem = _difference(model, skeleton(config))
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
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(model)
    }


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, hence on the same file system, that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".eqx_clip-", dir=folder) as draft:
        yield Path(draft)


def _move_in(draft: Path, folder: Path, tokenizer: Sequence[str]) -> None:
    """Puts the files of `draft` in the place of their namesakes in `folder`.

    The step that counts is the renaming of the weights. They carry a copy of their configuration,
    which `load` takes while the file of that name is away, as it is until both belong together; so
    are the files that the `tokenizer` is made of, without which a model loads all the same. One
    that `draft` does not have goes: it is another model's.
    """
    for path in draft.iterdir():
        _flush(path)
    changed = [name for name in (*tokenizer, CONFIG_FILE) if not _same(draft / name, folder / name)]
    away = {folder / name: folder / f"{name}.old" for name in changed}
    try:
        for path, old in away.items():
            if path.exists():
                os.replace(path, old)
        os.replace(draft / WEIGHT_FILES[0], folder / WEIGHT_FILES[0])
    except BaseException:
        for path, old in away.items():
            if old.exists() and not path.exists():
                os.replace(old, path)
        raise
    for path, old in away.items():
        old.unlink(missing_ok=True)
        if (draft / path.name).exists():
            os.replace(draft / path.name, path)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _flush(path: Path) -> None:
    """Waits until the file is on the disk: a renaming may otherwise get there before its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
