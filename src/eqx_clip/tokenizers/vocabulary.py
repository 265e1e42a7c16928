"""The vocabulary of a `tokenizer.json`, and what a `tokenizer_config.json` says of its use."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .._checks import short_repr


if TYPE_CHECKING:
    import tokenizers

FILES = FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"

# What transformers' classes call these tokens where `tokenizer_config.json` does not say.
_PADS, _SEPARATORS, _ENDS = ("<pad>", "[PAD]"), ("[SEP]", "</s>"), ("</s>", "[SEP]")

# transformers 5 reads only vocabulary and normalisation of such a file, and puts its mark before
# every word. Files written by older versions may put none before the first.
_MARK_EVERY_WORD = ("T5Tokenizer", "XLMRobertaTokenizer")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A `tokenizer.json`, equal to another of the same content that is used in the same way.

    `content` and `config` are the two files' bytes, so that they can be written again. `digest` is
    the SHA-256 of `content`. `language` is the token before every text in the place of the file's
    own start, for NLLB.
    """

    digest: str
    pad_id: int
    sep_id: int | None
    pads_left: bool
    marks_every_word: bool
    language: str | None
    content: bytes = dataclasses.field(compare=False, repr=False)
    config: bytes = dataclasses.field(compare=False, repr=False)


def read_vocabulary(content: bytes, config: bytes, where: str) -> Vocabulary:
    """The vocabulary of the two files' bytes, which lie `where`.

    Raises `ValueError` for files that are damaged.
    """
    facts = _parsed(config, CONFIG_FILE, where)
    name = str(facts.get("tokenizer_class") or "")
    side = facts.get("padding_side") or "right"
    if side not in ("right", "left"):
        raise ValueError(
            f"`padding_side` in {CONFIG_FILE!r} in {where} must be 'right' or 'left'; got "
            f"{short_repr(side)}."
        )
    vocabulary = Vocabulary(
        digest=hashlib.sha256(content).hexdigest(),
        pad_id=0,
        sep_id=None,
        pads_left=side == "left",
        marks_every_word=name.removesuffix("Fast") in _MARK_EVERY_WORD,
        language=str(facts.get("src_lang") or "eng_Latn") if name.startswith("Nllb") else None,
        content=content,
        config=config,
    )
    try:
        tokenizer = loaded(vocabulary)
        pad = _token_id(tokenizer, facts, "pad_token", _PADS)
        separator = _token_id(tokenizer, facts, "sep_token", _SEPARATORS)
        frame(vocabulary)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the package's Rust code is no `Exception`
        raise _damaged(FILE, where, error) from None
    if pad is None:
        raise ValueError(
            f"{FILE!r} in {where} has no token that fills up rows: name it as `pad_token` in "
            f"{CONFIG_FILE!r} beside it."
        )
    return dataclasses.replace(vocabulary, pad_id=pad, sep_id=separator)


def config_to_write(vocabulary: Vocabulary) -> bytes:
    """A `tokenizer_config.json` with which transformers reads the file alone."""
    facts = json.loads(vocabulary.config)
    if facts.get("tokenizer_class"):
        return vocabulary.config
    # Such a repository leaves the class to a `config.json`; this one reads `tokenizer.json` as is.
    tokenizer = loaded(vocabulary)
    facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key, token in (("pad_token", vocabulary.pad_id), ("sep_token", vocabulary.sep_id)):
        if token is not None:
            facts.setdefault(key, tokenizer.id_to_token(token))
    return json.dumps(facts, indent=2).encode()


def loaded(vocabulary: Vocabulary) -> "tokenizers.Tokenizer":
    """The tokenizer itself, which neither cuts nor fills up. Nothing may be set on it: it is
    shared, by threads too."""
    return _loaded(_Key(vocabulary.digest, vocabulary.marks_every_word, vocabulary.content))


class _Key(NamedTuple):
    """What makes one tokenizer, told apart by the digest rather than by megabytes."""

    digest: str
    marks_every_word: bool
    content: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self[:2] == other[:2]

    def __hash__(self) -> int:
        return hash(self[:2])


@functools.lru_cache(maxsize=4)
def _loaded(key: _Key) -> "tokenizers.Tokenizer":
    import tokenizers

    if key.marks_every_word:
        tokenizer = _with_marks(key.content)
    else:
        tokenizer = tokenizers.Tokenizer.from_str(key.content.decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@functools.lru_cache(maxsize=16)
def frame(vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that stand before a text's own, and those that stand behind."""
    tokenizer = loaded(vocabulary)
    if vocabulary.language is not None:
        start = tokenizer.token_to_id(vocabulary.language)
        end = _token_id(tokenizer, json.loads(vocabulary.config), "eos_token", _ENDS)
        if start is None or end is None:
            raise ValueError(f"it has no token for {vocabulary.language!r} or for the end of text")
        return (start,), (end,)
    own = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    if not own:
        raise ValueError("it has no ids for the letter a")
    at = next(i for i in range(len(whole)) if whole[i : i + len(own)] == own)
    return tuple(whole[:at]), tuple(whole[at + len(own) :])


def _token_id(
    tokenizer: "tokenizers.Tokenizer", facts: Mapping[str, Any], key: str, usual: tuple[str, ...]
) -> int | None:
    """The id of a token by its role, or else of the first of its usual names that is there."""
    token = facts.get(key)
    if isinstance(token, Mapping):  # with how blanks around it are read
        token = token.get("content")
    ids = (tokenizer.token_to_id(name) for name in ((token,) if token else usual))
    return next((found for found in ids if found is not None), None)


def _with_marks(content: bytes) -> "tokenizers.Tokenizer":
    """The tokenizer of a file of sentencepiece's kind, with a mark before every word."""
    import tokenizers

    data = json.loads(content)
    normalizer = data.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    maps = [part for part in parts if part.get("type") == "Precompiled"]
    mark = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    data["normalizer"] = maps[0] if maps else None
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, mark],
    }
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    # The package reads some numbers of a file one bit off, as Python does not. A bit decides
    # between two ways to cut a word that are equally likely ("w" and "ww", or "ww" and "w").
    pieces = [(piece, score) for piece, score in data["model"]["vocab"]]
    tokenizer.model = tokenizers.models.Unigram(pieces, data["model"]["unk_id"])
    return tokenizer


def _parsed(data: bytes, file: str, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(data)
        if not isinstance(facts, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise _damaged(file, where, error) from None
    return facts


def _damaged(file: str, where: str, error: BaseException) -> ValueError:
    return ValueError(
        f"{file!r} in {where} is damaged: {short_repr(str(error))}. Fetch it again, or take it "
        "away: the model then loads without its tokenizer."
    )
