"""What OpenCLIP does to a text before its ids are looked up."""

import html
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:
    Cleaning = Literal["whitespace", "lower", "canonicalize"]
else:
    Cleaning = Any  # a `ValueError` speaks first

_WITHOUT_PUNCTUATION = str.maketrans(
    {"_": " ", **dict.fromkeys(string.punctuation.replace("_", ""))}
)


def is_plain(text: str) -> bool:
    """Whether repair and unescaping would change nothing; they cost more than all the rest."""
    return text.isascii() and text.isprintable() and "&" not in text


def repaired(text: str) -> str:
    """Mojibake undone by ftfy, entities of HTML read, twice: `basic_clean`, blanks left as is."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _one_space(text: str) -> str:
    """Words with one space between them: `whitespace_clean`."""
    return " ".join(text.split())


def _lower(text: str) -> str:
    return _one_space(text).lower()


def _canonical(text: str) -> str:
    """Lower case, no ASCII punctuation, underscores as spaces: big_vision's `canonicalize_text`."""
    return _one_space(text.translate(_WITHOUT_PUNCTUATION).lower())


# By OpenCLIP's names, those of `get_clean_fn`.
CLEANINGS: dict[str, Callable[[str], str]] = {
    "whitespace": _one_space,
    "lower": _lower,
    "canonicalize": _canonical,
}


def cleaned(text: str, cleaning: Cleaning) -> str:
    """`text` as `open_clip.tokenizer.get_clean_fn(cleaning)` gives it."""
    return CLEANINGS[cleaning](text if is_plain(text) else repaired(text))
