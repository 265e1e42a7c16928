"""Tokenizers whose vocabulary is a file: OpenCLIP's `HFTokenizer`, without transformers."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32

from .._checks import as_count, canonicalize, check_choice, short_repr
from .._types import Count, Name, TextLike
from .cleaning import CLEANINGS, Cleaning, cleaned
from .clip import as_captions
from .vocabulary import FILE, Vocabulary, frame, loaded


if TYPE_CHECKING:
    Flag = bool
else:
    Flag = Any  # a `ValueError` speaks first

_CHUNK = 1024  # captions that are read together


@dataclasses.dataclass(frozen=True)
class JSONTokenizer:
    """Captions to ids by a `tokenizer.json`, as `open_clip.tokenizer.HFTokenizer` does it.

    `name` is the repository of the hub that the file is from, or would be. `clean` is what is done
    to a text first ("whitespace", "lower" or "canonicalize"); with `strip_sep_token` the separator
    is written as 0. Without a `vocabulary` it is a value that a model carries, and calling it is a
    `ValueError`; `missing` says why there is none. Other options are a `ValueError`.
    """

    name: Name
    context_length: Count = 77
    clean: Cleaning = "whitespace"
    strip_sep_token: Flag = False
    vocabulary: Vocabulary | None = None
    missing: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise ValueError(
                f"`name` must be a repository of the hub; got {short_repr(self.name)}."
            )
        canonicalize(self, as_count, "context_length")
        check_choice("clean", self.clean, tuple(CLEANINGS))
        if not isinstance(self.strip_sep_token, bool):
            raise ValueError(
                f"`strip_sep_token` must be true or false; got {short_repr(self.strip_sep_token)}."
            )
        if self.strip_sep_token and self.vocabulary and self.vocabulary.sep_id is None:
            raise ValueError(
                f"`strip_sep_token` needs a separator, and {FILE!r} of {self.name!r} has none: "
                "leave `strip_sep_token` out of the configuration."
            )

    def __call__(self, texts: TextLike) -> Int32[np.ndarray, "batch context"]:
        """The file's start, the caption's ids, the file's end, and its padding.

        `texts` is one string, a batch of one, or any iterable of strings. A caption too long is
        cut, and keeps start and end. Returns int32 (batch, context). A caption that is not a string
        is a `ValueError`, and so is a context length with no room for start and end.
        """
        vocabulary = self.vocabulary
        if vocabulary is None:
            raise ValueError(self._why_not())
        captions = as_captions(texts)
        start, end = frame(vocabulary)
        room = self.context_length - len(start) - len(end)
        if room < 0:
            raise ValueError(
                f"`context_length` must be at least {len(start) + len(end)}, for what {FILE!r} of "
                f"{self.name!r} puts around a text; got {self.context_length}."
            )
        tokens = np.full((len(captions), self.context_length), vocabulary.pad_id, np.int32)
        tokenizer = loaded(vocabulary)
        for first in range(0, len(captions), _CHUNK):
            batch = [cleaned(text, self.clean) for text in captions[first : first + _CHUNK]]
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            for row, encoding in zip(tokens[first:], encodings, strict=False):
                ids = [*start, *encoding.ids[:room], *end]
                at = len(row) - len(ids) if vocabulary.pads_left else 0
                row[at : at + len(ids)] = ids
        if self.strip_sep_token:
            tokens[tokens == vocabulary.sep_id] = 0
        return tokens

    def _why_not(self) -> str:
        return (
            f"This model reads the token ids of {self.name!r}, whose {FILE!r} is not here"
            f"{self.missing and f': {self.missing}'}. `eqx_clip.load` finds the file beside the "
            f"weights, or in the repository {self.name!r} of the hub. Without it images are "
            "encoded, and so are rows of ids that another library makes: int32 (batch, "
            f"{self.context_length}), given to `jax.vmap(model.encode_text)`."
        )
