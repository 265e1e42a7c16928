"""Writes a model as other libraries read it."""

import dataclasses
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
import numpy as np

from .._checks import DTYPES, short_repr
from .._clip import CLIP, CLIPConfig
from .._types import Name
from ..nn.batch_norm import is_counter
from ..tokenizers.vocabulary import FILES as TOKENIZER_FILES
from . import transformers_files
from .config import config_from_open_clip, config_to_open_clip
from .convert import check_model, skeleton, to_state_dict
from .format import TRANSFORMERS
from .hub import CONFIG_FILE, WEIGHT_FILES
from .rows.state_dict import tensors_of
from .tokenizer_files import files_of, is_of_files, with_files_of
from .transformers.config import config_from_transformers, config_to_transformers
from .transformers.preprocess import preprocess_to_transformers


if TYPE_CHECKING:
    Model = CLIP
    Folder = str | os.PathLike[str]
else:
    Model = Folder = Any  # a `ValueError` speaks first


def save(model: Model, folder: Folder, *, format: Name = "open_clip") -> None:
    """Writes `model` into `folder`: safetensors and configuration.

    `format` is "open_clip", which OpenCLIP loads strictly
    (`open_clip.create_model("local-dir:folder")`), or "transformers", for
    `transformers.CLIPModel.from_pretrained(folder)`, of towers such as OpenAI's ViTs have, and for
    `transformers.SiglipModel`, of SigLIP's and SigLIP 2's.
    `eqx_clip.load(folder, dtype=...)` with the model's own type gives it back, equal to the bit,
    from a folder that holds one format: of two it takes OpenCLIP's. The files of a tokenizer that
    is made of some are written, too. The folder is made where it is missing; other files in it are
    left alone. A model that is there already is replaced by one renaming once the new one is
    written whole, so that whenever the process ends, `load` finds the one or the other, without
    its tokenizer at worst where the two have different ones. Raises `ValueError`, before anything
    is written, for what is no `CLIP`, for an unknown format, for a folder far away (`train.export`
    writes there), for weights of another type than `load` reads (float32, bfloat16, float16,
    float64; not float8), and for towers and sizes that the format does not have
    (`eqx.tree_serialise_leaves` writes any model);
    `OSError` where the folder cannot be written to, such as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    check_model(model)
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ValueError(f"`folder` must be a path; got {short_repr(folder)}.")
    if "://" in os.fspath(folder):
        raise ValueError(f"{folder} is no folder here: `train.export` writes far away.")
    if format not in _WRITERS:
        raise ValueError(
            f"`format` must be one of {', '.join(map(repr, _WRITERS))}; got {short_repr(format)}."
        )
    _check_types(model)
    files = _WRITERS[format](model)
    _check_rebuilds(model, with_files_of(files.rebuilt, model.tokenizer))
    folder = Path(os.path.expanduser(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with _draft(folder) as draft:
        try:
            save_file(files.tensors, draft / files.weights, metadata=files.metadata)
        except SafetensorError as error:
            raise OSError(f"The weights cannot be written to {folder}: {error}") from error
        for name, content in files.texts.items():
            (draft / name).write_text(content, encoding="utf-8")
        for name, data in files_of(model.tokenizer).items():
            (draft / name).write_bytes(data)
        # safetensors gives its file to the owner alone; whoever may read one may read the other.
        shutil.copymode(draft / files.config, draft / files.weights)
        _move_in(draft, folder, files, TOKENIZER_FILES if is_of_files(model.tokenizer) else ())


@dataclasses.dataclass(frozen=True)
class _Files:
    """What is written: the files' names and contents, and the configuration that they describe."""

    weights: str
    tensors: dict[str, np.ndarray]
    texts: dict[str, str]
    rebuilt: CLIPConfig
    metadata: dict[str, str]

    @property
    def config(self) -> str:
        """The name of the file that says what the weights are."""
        return next(iter(self.texts))


def _open_clip_files(model: CLIP) -> _Files:
    config = config_to_open_clip(model)
    text = json.dumps(config, indent=2)
    return _Files(
        WEIGHT_FILES[0],
        to_state_dict(model),
        {CONFIG_FILE: text},
        config_from_open_clip(config),
        {"format": "pt", CONFIG_FILE: text},
    )


def _transformers_files(model: CLIP) -> _Files:
    config = config_to_transformers(model)
    processor = preprocess_to_transformers(model.preprocess)
    texts = {
        transformers_files.CONFIG_FILE: json.dumps(config, indent=2),
        transformers_files.PREPROCESSOR_FILE: json.dumps(processor, indent=2),
    }
    return _Files(
        transformers_files.WEIGHTS_FILE,
        tensors_of(model, TRANSFORMERS.table(model)),
        texts,
        config_from_transformers(config, processor, transformers_files.CONFIG_FILE),
        {"format": "pt"},
    )


_WRITERS = {"open_clip": _open_clip_files, "transformers": _transformers_files}


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
    """`ValueError` if another model would be built of what is written."""
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


def _move_in(draft: Path, folder: Path, files: _Files, tokenizer: Sequence[str]) -> None:
    """Puts the files of `draft` in the place of their namesakes in `folder`.

    The step that counts is the renaming of the weights. While they and their configuration do not
    belong together, the file that says what the weights are is away; OpenCLIP's weights carry a
    copy of it, which `load` takes then. So are the files that the `tokenizer` is made of, without
    which a model loads all the same; one that `draft` does not have goes, being another model's.
    """
    for path in draft.iterdir():
        _flush(path)
    # What says what the weights are comes last.
    texts = [] if all(_same(draft, folder, name) for name in files.texts) else [*files.texts][::-1]
    others = [name for name in tokenizer if not _same(draft, folder, name)]
    away = {folder / name: folder / f"{name}.old" for name in (*others, *texts[-1:])}
    try:
        for path, old in away.items():
            if path.exists():
                os.replace(path, old)
        os.replace(draft / files.weights, folder / files.weights)
    except BaseException:
        for path, old in away.items():
            if old.exists() and not path.exists():
                os.replace(old, path)
        raise
    for old in away.values():
        old.unlink(missing_ok=True)
    for name in (*others, *texts):
        if (draft / name).exists():
            os.replace(draft / name, folder / name)


def _same(draft: Path, folder: Path, name: str) -> bool:
    paths = draft / name, folder / name
    return all(path.is_file() for path in paths) and len({p.read_bytes() for p in paths}) == 1


def _flush(path: Path) -> None:
    """Waits until the file is on the disk: a renaming may otherwise get there before its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
