# ruff: noqa: RUF001 (characters that are easily mistaken for others are what these tests are about)
"""The tokenizer against OpenCLIP's own, live: not one id may differ.

Both repair text by the same call of ftfy, which takes most of the time of either, so a test may let
them share its result. They share nothing else.
"""

import functools
import random
import unicodedata
from collections.abc import Iterator

import ftfy
import numpy as np
import pytest
from oracle import open_clip

from eqx_clip.tokenizers.clip import Tokenizer


TOKENIZER = Tokenizer()

# What captions are made of, down to what trips a tokenizer: forms that only look like a special or
# a contraction, entities of every spelling, letters whose case changes their length or depends on
# their neighbours, marks, joiners, blanks and controls, surrogates.
WORDS = """
a photo of the small red cat, sitting on an OLD sofa. it's isn't they're I'VE i'm we'll she'd 'S
'tis rock'n'roll o'clock 'quoted' "said" 2024 3.14 1,000 #hashtag @user www.example.com/path?q=1
semi-detached snake_case CamelCase antidisestablishmentarianism xqzjkvbw ... !!! ?! :-) <b>bold</b>
AT&T R&B U.S.A. $5.00 50% *** ~ ^ | \\ {x} [y] </w> < > & ' <|startoftext|> <|endoftext|>
<start_of_text> <end_of_text> <END_OF_TEXT> <Start_Of_Text> <start_of_text <end_of_text>>
!<end_of_text> it<start_of_text>is <end_of_text><end_of_text> <start_of_text>'s
""".split()
ENTITIES = """
&amp; &amp;amp; &amp;amp;amp; &lt; &lt &gt; &quot; &#39; &#x27; &apos; &nbsp; &copy &notit; &eacute;
&Eacute; &AMP; &#0; &#10; &#13; &#28; &#128; &#133; &#x1F600; &#xD800; &#x110000; &hearts; &; &#;
&#x; &bogus; &lt;end_of_text&gt; &amp;#39;s &shy; &zwj; &#837;
""".split()
LETTERS = """
naïve CAFÉ ÀÉÎÕÜ Straße STRASSE ẞ İstanbul ıI ΑΣ ΣΑΣ Σ ὈΔΥΣΣΕΎΣ ᾼ ι ПРИВЕТ мир Ђ Ａｂｃ ｆｕｌｌ
１２ ﬁne Ǆ ǅ ſ 'ſ ＇s K Å µ ª º ŉ ٣٤ ४५ Ⅷ ½ ² ① 𝔘𝔫𝔦 𝒜 𐐀 it’s ‘s’ “x” – — … €5 © ® ™ ﷽ ⁄ № ℃ 它
日本語 ひらがな カタカナ ﾊﾝｶｸ 한국어 ภาษาไทย हिन्दी বাংলা العربية עִבְרִית ـ 😀 👍🏽 🇫🇷 ❤ �
""".split()
LETTERS += ["\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "#\ufe0f\u20e3"]
BLANKS = [
    *" \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000\u200b\u200d\u2060\ufeff\u180e\xad"
]
CONTROLS = [*"\0\1\x07\x08\x7f\x80\x81\x9f\uffff\ufdd0\u202e\u2066\ufe0f\U000e0041\ue000\U0010ffff"]
CONTROLS += ["\x1b[31m", "\ud800", "\udfff", "\ud83d\ude00", "\ude00\ud83d"]
MARKS = [chr(code) for code in range(0x20000) if unicodedata.combining(chr(code))] + ["\u0345"] * 50
ASSIGNED = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) != "Cn"]
PLAIN = [chr(code) for code in range(32, 127)]


def misread(rng):
    """Text written as UTF-8 and read as something else, once or twice: ftfy undoes it."""
    text = rng.choice(LETTERS)
    for _ in range(rng.choice((1, 1, 2))):
        text = text.encode("utf-8").decode(rng.choice(("latin-1", "cp1252", "cp437")), "replace")
    return text


PLAIN_PARTS = {
    lambda rng: rng.choice(WORDS): 8,
    lambda rng: rng.choice(WORDS).upper(): 2,
    lambda rng: "".join(rng.choices(PLAIN, k=rng.randint(1, 12))): 2,
    lambda rng: "".join(rng.choices(PLAIN[65:91], k=rng.randint(1, 20))): 1,
    lambda rng: str(rng.randrange(10 ** rng.randint(1, 9))): 1,
}
PARTS = PLAIN_PARTS | {
    lambda rng: rng.choice(ENTITIES): 2,
    lambda rng: rng.choice(LETTERS): 3,
    lambda rng: rng.choice(LETTERS).upper(): 1,
    lambda rng: rng.choice(BLANKS): 2,
    lambda rng: rng.choice(CONTROLS): 1,
    lambda rng: rng.choice(WORDS) + "".join(rng.choices(MARKS, k=rng.randint(1, 4))): 1,
    lambda rng: "".join(rng.choices(ASSIGNED, k=rng.randint(1, 8))): 2,
    lambda rng: chr(rng.randrange(0x110000)): 1,
    misread: 2,
}


def fuzzed_captions(seed: int, number: int) -> Iterator[str]:
    """Two in five are printable ASCII, one in a hundred is too long for 77 ids."""
    rng = random.Random(seed)
    for _ in range(number):
        parts = PLAIN_PARTS if rng.random() < 0.4 else PARTS
        count = rng.randint(40, 90) if rng.random() < 0.01 else rng.randint(1, 7)
        drawn = rng.choices([*parts], weights=[*parts.values()], k=count)
        yield rng.choice(("", " ", " ", " ")).join(part(rng) for part in drawn)


@pytest.fixture(scope="module")
def reference():
    return open_clip.tokenizer.SimpleTokenizer()


@pytest.fixture
def shared_repair(monkeypatch):
    monkeypatch.setattr(ftfy, "fix_text", functools.lru_cache(maxsize=1)(ftfy.fix_text))


def assert_same_ids(reference, texts):
    for text in texts:
        expected, ids = reference.encode(text), TOKENIZER.encode(text)
        # Compared first: pytest's own comparison of every list would take longer than the rest.
        if ids != expected:
            pytest.fail(f"{text!a} gives {ids}, not {expected}")


def test_every_vocabulary_entry(reference):
    """As a word, and twice over as a longer one."""
    entries = [reference.decode([token]).strip() for token in range(TOKENIZER.vocab_size)]

    assert_same_ids(reference, [f"{entry} {entry}{entry}." for entry in entries])


@pytest.mark.parametrize("plane", range(17))
def test_every_code_point(reference, shared_repair, plane):
    """Between letters, and in the two planes in use also between marks.

    OpenCLIP takes long over a short text, so many code points make one. Each has a line, and ftfy
    repairs a line by itself; its ids are held apart from the next line's by a digit.
    """
    line = "0a{0}b !{0}!" if plane < 2 else "0a{0}b"
    specials = dict(reference.cache)

    for start in range(plane << 16, (plane + 1) << 16, 1 << 10):
        lines = [line.format(chr(code)) for code in range(start, start + (1 << 10))]
        text = "\n".join(lines)
        if TOKENIZER.encode(text) != reference.encode(text):
            assert_same_ids(reference, lines)
            pytest.fail(f"code points from U+{start:04X} differ together, and none alone")
        reference.cache = dict(specials)  # which otherwise keeps every word for good


def test_every_pair_of_ascii_characters(reference):
    """Each in a text of its own: the shortcut for plain ASCII looks at the whole text."""
    characters = [chr(code) for code in range(128)]

    assert_same_ids(reference, (f"a{x}{y}b" for x in characters for y in characters))


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_captions(reference, shared_repair, seed):
    assert_same_ids(reference, fuzzed_captions(seed, number=25_000))


@pytest.mark.parametrize("context_length", [2, 3, 8, 77, 120])
def test_rows_of_fuzzed_captions(reference, shared_repair, context_length):
    captions = [
        *fuzzed_captions(100 + context_length, number=2_000),
        "",
        "word " * 200,
        "x" * 5_000,
    ]
    expected = reference(captions, context_length).numpy()

    np.testing.assert_array_equal(TOKENIZER(captions, context_length), expected)
    np.testing.assert_array_equal(Tokenizer(context_length)(captions), expected)


def test_default_context_length(reference):
    captions = list(fuzzed_captions(seed=10, number=500))

    np.testing.assert_array_equal(TOKENIZER(captions), open_clip.tokenize(captions).numpy())


def test_decode_of_every_id(reference):
    for token in range(reference.vocab_size):
        assert TOKENIZER.decode([token]) == reference.decode([token])


def test_decode_of_random_rows(reference):
    """Also of ids that spell what OpenCLIP writes for a word's end, or that break a character."""
    rng = random.Random(0)
    end_mark = [reference.encoder[symbol] for symbol in "</w>"]
    odd = [end_mark, end_mark[:3], [reference.encoder["></w>"]], [49406], [49407], [0]]

    for _ in range(20_000):
        row = []
        for _ in range(rng.randrange(20)):
            usual = rng.random() < 0.6
            row += [rng.randrange(reference.vocab_size)] if usual else rng.choice(odd)
        assert TOKENIZER.decode(row) == reference.decode(row), row


def test_decode_of_fuzzed_captions(reference, shared_repair):
    for caption in fuzzed_captions(seed=11, number=5_000):
        ids = reference.encode(caption)
        assert TOKENIZER.decode(ids) == reference.decode(ids), ids
