"""Gives a configuration the files of its tokenizer, from a folder or the hub."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._clip import CLIPConfig
from ..tokenizers.json_file import JSONTokenizer
from ..tokenizers.protocol import AnyTokenizer
from ..tokenizers.vocabulary import CONFIG_FILE, FILE, FILES, config_to_write, read_vocabulary
from .hub import WeightsNotFoundError, fetch


logger = logging.getLogger("eqx_clip")

# What transformers makes a `tokenizer.json` of.
_OLDER_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.txt")
_OLDER_FILES += ("vocab.json", "merges.txt")


def with_tokenizer_in(config: CLIPConfig, folder: Path) -> CLIPConfig:
    """`config`, and its tokenizer's files as they lie in `folder`; else the log says which do not.

    Raises `ValueError` for files that are damaged.
    """
    tokenizer = config.tokenizer
    if not isinstance(tokenizer, JSONTokenizer) or tokenizer.vocabulary is not None:
        return config
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        return _without(config, _missing(folder, absent))
    content, facts = ((folder / name).read_bytes() for name in FILES)
    return _with(config, vocabulary=read_vocabulary(content, facts, str(folder)))


def with_tokenizer_of(config: CLIPConfig, repos: Sequence[str], **place: Any) -> CLIPConfig:
    """`config`, and its tokenizer's files from the hub: from the first of `repos`, those of the
    weights, or else from the tokenizer's own.

    Where none can be had the log says why, since weights and images need none. `place` is what
    `fetch` takes; a revision is one of the weights' repositories. Raises `ValueError` for files
    that are damaged.
    """
    tokenizer = config.tokenizer
    if not isinstance(tokenizer, JSONTokenizer):
        return config
    reasons = []
    for repo in dict.fromkeys((*repos, tokenizer.name)):
        if repo not in repos:
            place = {**place, "revision": None}
        try:
            content, facts = (fetch([repo], [name], **place).read_bytes() for name in FILES)
        except (WeightsNotFoundError, OSError) as error:
            reasons.append(str(error).removeprefix("Found none of:\n").partition("\n")[0])
            continue
        vocabulary = read_vocabulary(content, facts, f"the repository {repo!r}")
        return _with(config, vocabulary=vocabulary)
    missing = "; ".join(reason.removeprefix("- ") for reason in reasons)
    return _without(config, missing)


def files_of(tokenizer: AnyTokenizer) -> dict[str, bytes]:
    """The files that a folder needs for a tokenizer, by name."""
    if not isinstance(tokenizer, JSONTokenizer) or tokenizer.vocabulary is None:
        return {}
    return {FILE: tokenizer.vocabulary.content, CONFIG_FILE: config_to_write(tokenizer.vocabulary)}


def is_of_files(tokenizer: AnyTokenizer) -> bool:
    """Whether a tokenizer is made of files, here or not."""
    return isinstance(tokenizer, JSONTokenizer)


def with_files_of(config: CLIPConfig, tokenizer: AnyTokenizer) -> CLIPConfig:
    """`config`, and the files of a model's tokenizer, where both are of such a kind."""
    if not (isinstance(tokenizer, JSONTokenizer) and isinstance(config.tokenizer, JSONTokenizer)):
        return config
    return _with(config, vocabulary=tokenizer.vocabulary)


def _without(config: CLIPConfig, missing: str) -> CLIPConfig:
    logger.warning("The model loads without its tokenizer: %s.", missing)
    return _with(config, missing=missing)


def _with(config: CLIPConfig, **fields: Any) -> CLIPConfig:
    tokenizer: Any = config.tokenizer
    return dataclasses.replace(config, tokenizer=dataclasses.replace(tokenizer, **fields))


def _missing(folder: Path, absent: Sequence[str]) -> str:
    older = [name for name in _OLDER_FILES if (folder / name).is_file()]
    problem = f"there is no {' and no '.join(map(repr, absent))} in {folder}"
    if not older or FILE not in absent:
        return problem
    return (
        f"{problem}, only {', '.join(older)}, which transformers rewrites: "
        "`transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
    )
