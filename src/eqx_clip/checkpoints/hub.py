"""Finds weights: on the Hugging Face hub or in a folder, safetensors only."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..tokenizers.vocabulary import FILES as TOKENIZER_FILES


CONFIG_FILE = "open_clip_config.json"
# OpenCLIP's order of preference, without its pickles.
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
PICKLE_FILES = (
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# Shown to whoever has nothing but a pickle. The README has it, too.
PICKLE_RECIPE = """\
Pickled weights can run any code and are never opened here. Convert them once, where torch is:

    import torch, safetensors.torch
    weights = torch.load("open_clip_pytorch_model.bin", map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights)
    safetensors.torch.save_file(
        {name.removeprefix("module."): tensor.contiguous() for name, tensor in weights.items()},
        "open_clip_model.safetensors",
    )
"""


class WeightsNotFoundError(FileNotFoundError, ValueError):
    """Weights that are neither where they were looked for nor in the cache, and what to do."""


def fetch(
    repos: Sequence[str],
    files: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The path of the first of `files` that the first of `repos` has, downloaded if not cached.

    Raises `WeightsNotFoundError` if none has any, or the hub is out of reach and none is cached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    cache_dir = None if cache_dir is None else Path(cache_dir)
    reasons, offline = [], False
    for repo in repos:
        for file in files:
            try:
                cached = huggingface_hub.try_to_load_from_cache(
                    repo, file, cache_dir=cache_dir, revision=revision
                )
                offline = offline or not (isinstance(cached, str) or _hub_answers())
                return Path(
                    huggingface_hub.hf_hub_download(
                        repo,
                        file,
                        revision=revision,
                        cache_dir=cache_dir,
                        local_files_only=offline,
                    )
                )
            except errors.LocalEntryNotFoundError:
                offline = True  # from here on the cache alone is asked: one time-out is enough
                reason = "not in the cache, and the hub cannot be reached"
            except errors.EntryNotFoundError:
                reason = "no such file"
            except errors.RevisionNotFoundError:
                reason = f"no revision {revision!r}"
            except errors.GatedRepoError:
                reason = "closed until you accept its terms on the hub and log in (`hf auth login`)"
            except errors.RepositoryNotFoundError:
                reason = "no such repository, or a private one"
            # Of the hub, the disk, or whichever HTTP library huggingface-hub stands on.
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            reasons.append(f"{repo}/{file}: {reason}")
    pickles = (
        []
        if offline or {CONFIG_FILE, *TOKENIZER_FILES} & {*files}
        else [f"{repo}/{file}" for repo in repos for file in _pickles(repo, revision)]
    )
    raise WeightsNotFoundError(
        _not_found(reasons, pickles, offline=offline, is_config=CONFIG_FILE in files)
    )


def _hub_answers() -> bool:
    """Whether the hub can be reached. Without it huggingface-hub tries again for half a minute."""
    from huggingface_hub import constants, utils

    try:
        utils.get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of whichever HTTP library this version of huggingface-hub stands on
        return False
    return True


def _not_found(
    reasons: Sequence[str], pickles: Sequence[str], *, offline: bool, is_config: bool
) -> str:
    looked = "Found none of:\n" + "".join(f"- {reason}\n" for reason in reasons)
    if offline:
        return (
            f"{looked}Connect once, and what is downloaded stays in the cache; or copy the files "
            "here and `eqx_clip.load(folder)`. HF_HUB_OFFLINE=1 forbids the network."
        )
    if pickles:
        return f"{looked}There are only pickles: {', '.join(pickles)}.\n{PICKLE_RECIPE}"
    return f"{looked}Check the name on the hub, or load a local folder: `eqx_clip.load(folder)`."


def _pickles(repo: str, revision: str | None) -> list[str]:
    import huggingface_hub

    try:
        return [
            file
            for file in PICKLE_FILES
            if huggingface_hub.file_exists(repo, file, revision=revision)
        ]
    except Exception:  # this only makes an error's message better
        return []


def find_in_folder(folder: Path) -> Path:
    """The weights in a folder: OpenCLIP's names first, else the only safetensors file.

    Raises `WeightsNotFoundError` where there is none, `ValueError` where several could be meant.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(others) == 1:
        return others[0]
    if others:
        raise ValueError(
            f"{folder} holds several weights: {', '.join(path.name for path in others)}. "
            f"Name the one to load {WEIGHT_FILES[0]!r}."
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise WeightsNotFoundError(
            f"{folder} holds only pickles: {', '.join(pickles)}.\n{PICKLE_RECIPE}"
        )
    raise WeightsNotFoundError(f"{folder} holds no weights; expected {WEIGHT_FILES[0]!r} in it.")


def check_not_pickle(path: Path) -> None:
    if path.suffix in PICKLE_SUFFIXES:
        raise ValueError(f"{path} is a pickle by its name.\n{PICKLE_RECIPE}")
