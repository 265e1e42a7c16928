"""The tokenizer against ids that OpenCLIP produced. `tests/parity` compares the two live."""

import gzip
import hashlib
import pickle
import subprocess
import sys
from importlib import resources

import jax.numpy as jnp
import numpy as np
import pytest

from eqx_clip.tokenizers import clip
from eqx_clip.tokenizers.clip import Tokenizer, tokenize


# By `SimpleTokenizer.encode` of open_clip_torch 3.3.0.
CAPTIONS = {
    "": [],
    "a photo of a cat.": [320, 1125, 539, 320, 2368, 269],
    "It's 2024, isn't it?": [585, 568, 273, 271, 273, 275, 267, 2923, 713, 585, 286],
    "i'm we've you're": [328, 880, 649, 1200, 592, 982],
    "they'll she'd don't": [889, 1342, 1043, 1896, 847, 713],
    "CAFÉ  au\nlait": [15304, 2566, 572, 585],
    "two\n\tLINES": [1237, 3418],
    "I <3 rock &amp;amp; roll": [328, 283, 274, 2172, 261, 3341],
    "the mona lisaâ€™s smile": [518, 19143, 7424, 568, 3490],
    "猫 😀": [163, 234, 360, 7334],
    "a_b/c &lt;p&gt;": [320, 318, 321, 270, 322, 283, 335, 285],
    "<start_of_text> a <END_OF_TEXT>": [49406, 320, 49407],
    "a<end_of_text>": [320, 49407],
}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_ids_are_openclips(caption):
    assert Tokenizer().encode(caption) == CAPTIONS[caption]


def test_long_s_after_an_apostrophe_is_a_contraction():
    """The words are searched for without regard to case, after lowering too."""
    assert Tokenizer().encode("it'\N{LATIN SMALL LETTER LONG S}") == [585, 6, 129, 379]


def test_ids_do_not_depend_on_a_full_cache(monkeypatch):
    words = [f"{a}{b}" for a in "abcdefgh" for b in "ijklmnop"]
    expected = tokenize(words)
    monkeypatch.setattr(clip, "_CACHED_WORDS", 2)
    kept = clip._word_ids()
    kept.clear()
    for _ in range(2):
        np.testing.assert_array_equal(tokenize(words), expected)
        assert len(kept) <= 2
        kept.clear()  # as another thread may, at any time


def test_rows_are_framed_and_padded_with_zeros():
    tokens = Tokenizer()(list(CAPTIONS))

    assert tokens.dtype == np.int32
    assert tokens.shape == (len(CAPTIONS), 77)
    for row, ids in zip(tokens, CAPTIONS.values(), strict=True):
        framed = [49406, *ids, 49407]
        np.testing.assert_array_equal(row, framed + [0] * (77 - len(framed)))


@pytest.mark.parametrize(
    ("context_length", "row"),
    [
        (2, [49406, 49407]),
        (5, [49406, 320, 1125, 539, 49407]),
        (7, [49406, 320, 1125, 539, 320, 2368, 49407]),
        (8, [49406, 320, 1125, 539, 320, 2368, 269, 49407]),
        (9, [49406, 320, 1125, 539, 320, 2368, 269, 49407, 0]),
    ],
)
def test_a_caption_too_long_still_ends_in_end_of_text(context_length, row):
    caption = "a photo of a cat."

    for tokens in (
        Tokenizer(context_length)(caption),
        Tokenizer()(caption, context_length),
        tokenize(caption, context_length),
    ):
        np.testing.assert_array_equal(tokens, [row])


def test_any_iterable_of_strings_is_a_batch():
    batch = Tokenizer()(["a cat", "a dog"])

    np.testing.assert_array_equal(Tokenizer()(("a cat", "a dog")), batch)
    np.testing.assert_array_equal(Tokenizer()(word for word in ("a cat", "a dog")), batch)
    np.testing.assert_array_equal(Tokenizer()(np.array(["a cat", "a dog"])), batch)
    np.testing.assert_array_equal(Tokenizer()("a cat"), batch[:1])
    np.testing.assert_array_equal(tokenize(["a cat", "a dog"]), batch)


def test_no_caption_is_a_batch_of_none():
    tokens = Tokenizer(16)([])

    assert tokens.shape == (0, 16)
    assert tokens.dtype == np.int32


@pytest.mark.parametrize("as_row", [list, np.asarray, jnp.asarray])
def test_decode_leaves_nothing_out(as_row):
    row = as_row([49406, 320, 2368, 568, 49407, 0, 0])

    assert Tokenizer().decode(row) == "<start_of_text>a cat 's <end_of_text>!!"


def test_decode_of_no_ids_and_of_broken_characters():
    tokenizer = Tokenizer()

    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([163, 234, 360]) == "猫 "
    assert tokenizer.decode([163, 234]) == "\N{REPLACEMENT CHARACTER}"


def test_decode_makes_a_spelt_end_mark_a_space():
    ids = Tokenizer().encode("</ w >")
    spelt = [27, 14, 86, 29]  # the bytes of `</w>`, none of them at a word's end

    assert Tokenizer().decode(ids) == "</ w > "
    assert Tokenizer().decode(spelt) == " "


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        ([49408], "0 and 49407, and one is 49408"),
        ([320, -1], "0 and 49407, and one is -1"),
        ([[320]], r"shape \(1, 1\)"),
        ([320.0], "row of integers"),
        ([True], "row of integers"),
        (320, "row of integers"),
        ("a cat", "row of integers"),
        (None, "row of integers"),
    ],
)
def test_decode_refuses_what_is_no_row_of_ids(ids, complaint):
    with pytest.raises(ValueError, match=complaint):
        Tokenizer().decode(ids)


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (None, "caption 0 is of type NoneType"),
        (7, "caption 0 is of type int"),
        (b"a cat", r"type bytes\. Decode it"),
        (["a cat", b"a dog"], r"caption 1 is of type bytes\. Decode it"),
        (["a cat", None], "caption 1 is of type NoneType"),
        ([["a cat"]], "caption 0 is of type list"),
    ],
)
def test_a_caption_that_is_no_string_is_refused(texts, complaint):
    with pytest.raises(ValueError, match=complaint):
        Tokenizer()(texts)
    with pytest.raises(ValueError, match=complaint):
        tokenize(texts)


@pytest.mark.parametrize("text", [None, 7, b"a cat", ["a cat"]])
def test_encode_takes_one_string(text):
    with pytest.raises(ValueError, match=f"type {type(text).__name__}"):
        Tokenizer().encode(text)


@pytest.mark.parametrize("context_length", [1, 0, -77, 77.0, "77", True])
def test_a_context_length_needs_room_for_start_and_end(context_length):
    complaint = "`context_length` must be (at least 2|a whole number)"

    with pytest.raises(ValueError, match=complaint):
        Tokenizer(context_length)
    with pytest.raises(ValueError, match=complaint):
        Tokenizer()("a cat", context_length)
    with pytest.raises(ValueError, match=complaint):
        tokenize("a cat", context_length)


def test_tokenizers_of_one_context_length_are_equal():
    """As static fields, equal tokenizers keep two models' tree structures equal."""
    used = Tokenizer(32)
    used("a cat")

    assert used == Tokenizer(32) == pickle.loads(pickle.dumps(used))
    assert hash(used) == hash(Tokenizer(32))
    assert used != Tokenizer(77)
    with pytest.raises(AttributeError):
        used.context_length = 77  # pyright: ignore[reportAttributeAccessIssue]


def test_constants_fit_the_vocabulary():
    tokenizer = Tokenizer()

    assert tokenizer.vocab_size == 49408
    assert tokenizer.decode([tokenizer.sot_token_id]) == "<start_of_text>"
    assert tokenizer.decode([tokenizer.eot_token_id]) == "<end_of_text>"


def test_a_damaged_vocabulary_is_refused(tmp_path):
    asset = resources.files("eqx_clip") / "assets" / "clip_merges.txt.gz"
    text = gzip.decompress(asset.read_bytes())
    copy = tmp_path / "merges.txt.gz"

    copy.write_bytes(asset.read_bytes())
    assert clip._read_merges(copy).encode() == text
    copy.write_bytes(gzip.compress(text.replace(b"i n\n", b"n i\n", 1), mtime=0))
    with pytest.raises(RuntimeError, match=r"merges\.txt\.gz is damaged.*Reinstall eqx_clip"):
        clip._read_merges(copy)


def test_licence_names_the_vocabulary_file():
    assets = resources.files("eqx_clip") / "assets"
    licence = (assets / "LICENSE-clip-vocabulary.txt").read_text()
    asset = (assets / "clip_merges.txt.gz").read_bytes()

    assert hashlib.sha256(asset).hexdigest() in licence
    assert hashlib.sha256(gzip.decompress(asset)).hexdigest() in licence
    assert "Copyright (c) 2021 OpenAI" in licence


def test_import_loads_no_tokenizing_library():
    """They cost a tenth of a second or more, and a training step needs none of them."""
    code = (
        "import sys, eqx_clip.tokenizers.clip; "
        "print({'tiktoken', 'ftfy', 'regex'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
