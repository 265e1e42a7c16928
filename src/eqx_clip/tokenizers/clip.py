"""CLIP's tokenizer: OpenCLIP's `SimpleTokenizer`, its byte-pair encoding done by tiktoken.

tiktoken joins the two neighbours whose union has the lowest rank, CLIP the pair that its list of
merges names first. With this list the ids are the same: a union's rank is its pair's place, and no
word ever comes to hold neighbours whose union is an entry but whose pair is not listed.
"""

import functools
import gzip
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Int, Int32

from .._checks import as_count, canonicalize
from .._types import AnyArray, TextLike
from .cleaning import is_plain, repaired


# Silent at run time, like `TextLike`: our `ValueError` is to speak before an executed annotation.
if TYPE_CHECKING:
    import tiktoken

    Text = str
    ContextLength = int
    TokenIds = Sequence[int] | AnyArray
else:
    Text = ContextLength = TokenIds = Any

_MERGES_SHA256 = "f1beb48fc78c990df6e28cb11b56e8d71ec792d8217cd916ab68e0d95768961b"
_SPECIALS = ("<start_of_text>", "<end_of_text>")

# Letters run together, a digit stands alone, and whatever else is not space runs together.
_WORD = "|".join((*_SPECIALS, "'s|'t|'re|'ve|'m|'ll|'d", "{letter}+|{digit}|[^{other}]+"))
_ASCII_WORD = re.compile(_WORD.format(letter="[a-z]", digit="[0-9]", other=" \\na-z0-9") + "|\\n")

# Stands between captions that are read together. No word has it, since it is space.
_END, _END_ID = "\n", -1
_CHUNK = 1024  # captions that are read together

_CACHED_WORDS, _CACHED_LETTERS = 1 << 16, 32  # bound the memory: some 20 MB


@dataclass(frozen=True)
class Tokenizer:
    """Captions to ids and back, as `open_clip.tokenizer.SimpleTokenizer` does it.

    `context_length` is the number of ids in a row, start and end of text included. Anything but a
    whole number of at least 2 is a `ValueError`.
    """

    context_length: ContextLength = 77

    vocab_size: ClassVar[int] = 49408
    sot_token_id: ClassVar[int] = 49406
    eot_token_id: ClassVar[int] = 49407

    def __post_init__(self) -> None:
        if as_count("context_length", self.context_length) < 2:
            raise ValueError(
                "`context_length` must be at least 2, for start and end of text; got 1."
            )
        canonicalize(self, as_count, "context_length")

    def __call__(
        self, texts: TextLike, context_length: ContextLength | None = None
    ) -> Int32[np.ndarray, "batch context"]:
        """Start of text, the caption's ids, end of text, and zeros: `SimpleTokenizer.__call__`.

        `texts` is one string, a batch of one, or any iterable of strings. A caption too long for
        `context_length`, by default the tokenizer's own, is cut, and its last id is end of text.
        Returns int32 (batch, context). A caption that is not a string is a `ValueError`, and so is
        a context length that is not a whole number of at least 2.
        """
        if context_length is not None:
            return Tokenizer(context_length)(texts)

        captions = as_captions(texts)
        tokens = np.zeros((len(captions), self.context_length), np.int32)
        for start in range(0, len(captions), _CHUNK):
            self._write(captions[start : start + _CHUNK], tokens[start : start + _CHUNK])
        return tokens

    def _write(self, captions: list[str], tokens: Int32[np.ndarray, "batch context"]) -> None:
        """Fills rows of zeros with the captions' ids, all at once."""
        words, order = _words(captions)
        ids = np.fromiter(_ids(words), np.int32)
        ends = (ids == _END_ID).nonzero()[0]
        starts = np.concatenate(([0], ends[:-1] + 1))
        caption = np.repeat(np.arange(len(order)), ends - starts + 1)
        column = np.arange(len(ids)) - starts[caption]
        last = np.minimum(ends - starts, self.context_length - 2)
        kept = column < last[caption]
        tokens[order[caption[kept]], column[kept] + 1] = ids[kept]
        tokens[order, last + 1] = self.eot_token_id
        tokens[:, 0] = self.sot_token_id

    def encode(self, text: Text) -> list[int]:
        """All ids of one caption, without start and end: `SimpleTokenizer.encode`.

        Anything but a string is a `ValueError`.
        """
        words, _ = _words(as_captions([text]))
        return list(_ids(words[:-1]))

    def decode(self, ids: TokenIds) -> str:
        """The text of one row of ids, with nothing left out: `SimpleTokenizer.decode`.

        `ids` are integers (tokens,) in a list, a NumPy array or a JAX array; anything else is a
        `ValueError`, and so is an id outside the vocabulary. Words end in a space, start and end of
        text appear by name, padding (id 0) as `!`, and bytes that are not UTF-8 as U+FFFD.
        """
        row = np.asarray(ids)
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise ValueError(
                f"`ids` must be one row of integers, and is {row.dtype} of shape {row.shape}. "
                "Decode the rows of a batch one at a time."
            )
        outside = row[(row < 0) | (row >= self.vocab_size)]
        if outside.size:
            raise ValueError(
                f"`ids` must lie between 0 and {self.vocab_size - 1}, and one is {outside[0]}."
            )
        text = _encoding().decode_bytes(row.tolist()).decode("utf-8", errors="replace")
        # A caption may spell the mark itself, and OpenCLIP makes that a space too.
        return text.replace("</w>", " ")


def tokenize(
    texts: TextLike, context_length: ContextLength = 77
) -> Int32[np.ndarray, "batch context"]:
    """OpenCLIP's `tokenize`, in NumPy: `Tokenizer(context_length)(texts)`, with its errors."""
    return Tokenizer(context_length)(texts)


def as_several(texts: Any) -> Iterable[Any]:
    """One text or several as several, or a `ValueError` for what is neither."""
    if isinstance(texts, Mapping) or getattr(texts, "ndim", 1) != 1:
        raise ValueError(f"Expected a string or a list of strings; got {type(texts).__name__}.")
    several = isinstance(texts, Iterable) and not isinstance(texts, str | bytes)
    return texts if several else [texts]


def as_captions(texts: Any, first: int = 0) -> list[str]:
    """One text or several as a list, or a `ValueError`, which counts from `first`."""
    captions = list(as_several(texts))
    for index, caption in enumerate(captions, first):
        if not isinstance(caption, str):
            remedy = "Take missing captions out, and lists apart, first."
            if isinstance(caption, bytes):
                remedy = "Decode it: `caption.decode('utf-8')`."
            raise ValueError(
                f"A caption must be a string, and caption {index} is of type "
                f"{type(caption).__name__}. {remedy}"
            )
    return captions


def _words(captions: list[str]) -> tuple[list[str], Int[np.ndarray, " captions"]]:
    """The words of the cleaned captions, an end after each, and which caption comes when."""
    plain = [i for i, caption in enumerate(captions) if is_plain(caption)]
    others = sorted({*range(len(captions))}.difference(plain))
    joined = "".join(f"{captions[i].lower()}{_END}" for i in plain)
    words = _ASCII_WORD.findall(joined)
    for i in others:
        words += (*_unicode_word().findall(repaired(captions[i]).lower()), _END)
    return words, np.array([*plain, *others], np.int64)


def _ids(words: list[str]) -> Iterator[int]:
    return itertools.chain.from_iterable(map(_word_ids().__getitem__, words))


class _WordIds(dict[str, list[int]]):
    """The ids of words, kept once they are known: captions are made of few different words."""

    def __missing__(self, word: str) -> list[int]:
        if word == _END:  # never kept, so that a thread cannot find it gone
            return [_END_ID]
        ids = _encoding().encode(f"{word} ", allowed_special="all")
        if len(self) >= _CACHED_WORDS:
            self.clear()
        if len(word) <= _CACHED_LETTERS:
            self[word] = ids
        return ids


@functools.cache
def _word_ids() -> _WordIds:
    return _WordIds()


@functools.cache
def _unicode_word() -> Any:
    import regex

    pattern = _WORD.format(letter=r"[\p{L}]", digit=r"[\p{N}]", other=r"\s\p{L}\p{N}")
    # IGNORECASE as in OpenCLIP. It counts although the text is lower-case: an apostrophe and a long
    # s are then one word, and U+0345, which no alternative matches any more, is lost.
    return regex.compile(pattern, regex.IGNORECASE)


@functools.cache
def _encoding() -> "tiktoken.Encoding":
    """CLIP's vocabulary: bytes, bytes that end a word, merges, specials. The id is the place.

    A space stands for CLIP's mark of a word's end, `</w>`: no word has one within, and it is what
    decoding makes of the mark.
    """
    import tiktoken

    # The file writes a byte as the character of that number where Latin-1 has a visible one, and
    # the others, in order, as the characters from 256. The visible ones come first.
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    symbols = [bytes([byte]) for byte in visible + others]

    merges = _read_merges(resources.files("eqx_clip") / "assets" / "clip_merges.txt.gz")
    merges = merges.replace(" ", "").replace("</w>", " ")
    merges = merges.translate(dict(enumerate(others, 256))).encode("latin-1").split(b"\n")
    entries = symbols + [symbol + b" " for symbol in symbols] + merges
    return tiktoken.Encoding(
        "clip",
        pat_str="[^ ]+ ",
        mergeable_ranks={entry: rank for rank, entry in enumerate(entries)},
        special_tokens={name: rank for rank, name in enumerate(_SPECIALS, len(entries))},
        explicit_n_vocab=Tokenizer.vocab_size,
    )


def _read_merges(path: Traversable) -> str:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != _MERGES_SHA256:
        raise RuntimeError(
            f"{path} is damaged: its SHA-256 is {digest}, not {_MERGES_SHA256}. Reinstall eqx_clip."
        )
    return gzip.decompress(data).decode("utf-8")
