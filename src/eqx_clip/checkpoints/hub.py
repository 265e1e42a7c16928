"""Finds weights: on the Hugging Face hub or in a folder, safetensors before torch's files."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .files.weights import TORCH_SUFFIXES


REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # organisation/repository
CONFIG_FILE = "open_clip_config.json"
# OpenCLIP's order of preference; its registered pairs have one of the first two.
REGISTERED_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
WEIGHT_FILES = (
    *REGISTERED_FILES,
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_SAFETENSORS = (".safetensors",)


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
                offline = offline or not (isinstance(cached, str) or hub_answers())
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
    raise WeightsNotFoundError(_not_found(reasons, offline=offline))


def hub_answers() -> bool:
    """Whether the hub can be reached. Without it huggingface-hub tries again for half a minute."""
    from huggingface_hub import constants, utils

    try:
        utils.get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of whichever HTTP library this version of huggingface-hub stands on
        return False
    return True


def _not_found(reasons: Sequence[str], *, offline: bool) -> str:
    looked = "Found none of:\n" + "".join(f"- {reason}\n" for reason in reasons)
    if offline:
        return (
            f"{looked}Connect once, and what is downloaded stays in the cache; or copy the files "
            "here and `eqx_clip.load(folder)`. HF_HUB_OFFLINE=1 forbids the network."
        )
    return f"{looked}Check the name on the hub, or load a local folder: `eqx_clip.load(folder)`."


def find_in_folder(folder: Path) -> Path:
    """The weights in a folder: OpenCLIP's names first, else the only file of safetensors, else the
    only one of torch's.

    Raises `WeightsNotFoundError` where there is none, `ValueError` where several could be meant.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    for suffixes, name in ((_SAFETENSORS, WEIGHT_FILES[0]), (TORCH_SUFFIXES, WEIGHT_FILES[3])):
        others = sorted(x for x in folder.iterdir() if x.suffix in suffixes and x.is_file())
        if len(others) == 1:
            return others[0]
        if others:
            raise ValueError(
                f"{folder} holds several weights: {', '.join(path.name for path in others)}. "
                f"Name the one to load {name!r}."
            )
    raise WeightsNotFoundError(f"{folder} holds no weights; expected {WEIGHT_FILES[0]!r} in it.")
