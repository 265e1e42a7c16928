"""Tokenizers of a `tokenizer.json`, small ones. `tests/parity` compares them with OpenCLIP's."""

import concurrent.futures
import copy
import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import small_tokenizers
import tokenizers

from eqx_clip.tokenizers.json_file import JSONTokenizer
from eqx_clip.tokenizers.vocabulary import config_to_write, loaded, read_vocabulary


def vocabulary(kind="bert", **config):
    content, facts = small_tokenizers.files(kind).values()
    return read_vocabulary(content, json.dumps(json.loads(facts) | config).encode(), "here")


def tokenizer(kind="bert", context_length=16, **options):
    options = small_tokenizers.OPTIONS.get(kind, {}) | options
    return JSONTokenizer("small", context_length, vocabulary=vocabulary(kind), **options)


def token_id(kind, token):
    content = small_tokenizers.files(kind)["tokenizer.json"].decode()
    return tokenizers.Tokenizer.from_str(content).token_to_id(token)


@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
def test_rows_are_int32_of_the_context_length_whatever_the_file_says(kind):
    rows = tokenizer(kind)(["a cat", "", "word " * 100])

    assert rows.dtype == np.int32
    assert rows.shape == (3, 16)
    assert tokenizer(kind)([]).shape == (0, 16)


def test_a_caption_is_framed_and_filled_up():
    cls, sep, pad = (token_id("bert", name) for name in ("[CLS]", "[SEP]", "[PAD]"))
    row = tokenizer(strip_sep_token=False)("the cat")[0].tolist()

    end = row.index(sep)
    assert row[0] == cls
    assert row[end + 1 :] == [pad] * (15 - end)


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [("bert", "[CLS]", "[SEP]"), ("roberta", "<s>", "</s>"), ("nllb", "deu_Latn", "</s>")],
)
def test_a_caption_too_long_keeps_start_and_end(kind, start, end):
    row = tokenizer(kind, 5, strip_sep_token=False)("dogs running " * 30)[0]

    assert row[0] == token_id(kind, start)
    assert row[-1] == token_id(kind, end)


def test_the_separator_is_stripped_where_the_options_say_so():
    kept, stripped = tokenizer(strip_sep_token=False)("the cat"), tokenizer()("the cat")
    separator = token_id("bert", "[SEP]")

    np.testing.assert_array_equal(stripped, np.where(kept == separator, 0, kept))
    assert separator not in stripped


def test_padding_is_the_configurations_token():
    """SigLIP's first tokenizers fill up with the end of text."""
    row = tokenizer("t5")("cat")[0]

    assert row[-1] == token_id("t5", "</s>") == 1


def test_the_first_word_has_its_mark_in_t5s_files_of_any_age():
    new, old = tokenizer("t5"), tokenizer("t5 without first mark")
    captions = small_tokenizers.corpus(seed=1, lines=50)

    np.testing.assert_array_equal(new(captions), old(captions))


def test_scores_are_those_of_the_file_to_the_bit():
    """A bit decides between two ways to cut a word; the package reads this number as ...45."""
    data = json.loads(small_tokenizers.files("t5")["tokenizer.json"])
    data["model"]["vocab"][-1][1] = -3.2526969422832446
    config = small_tokenizers.files("t5")["tokenizer_config.json"]
    tokenizer = loaded(read_vocabulary(json.dumps(data).encode(), config, "here"))

    assert json.loads(tokenizer.to_str())["model"]["vocab"] == data["model"]["vocab"]


def test_nllbs_language_stands_before_the_caption():
    """The configuration's, or English; older files put none there."""
    assert tokenizer("nllb")("cat")[0, 0] == token_id("nllb", "deu_Latn")
    vocabulary_of = vocabulary("nllb", src_lang=None)
    row = dataclasses.replace(tokenizer("nllb"), vocabulary=vocabulary_of)("cat")[0]
    assert row[0] == token_id("nllb", "eng_Latn")
    with pytest.raises(ValueError, match="no token for 'xyz_Latn'"):
        vocabulary("nllb", src_lang="xyz_Latn")


@pytest.mark.parametrize(
    ("clean", "same"),
    [("whitespace", "A_cat, don't"), ("lower", "a_cat, don't"), ("canonicalize", "a cat dont")],
)
def test_captions_are_cleaned(clean, same):
    reads = tokenizer("roberta", clean=clean)
    as_is = tokenizer("roberta", clean="whitespace")

    np.testing.assert_array_equal(reads("  A_cat,\n don't "), as_is(same))
    np.testing.assert_array_equal(reads("caf&amp;eacute;"), reads("cafÃ©"))


def test_another_context_length_is_the_same_tokenizer():
    long = tokenizer()
    short = dataclasses.replace(long, context_length=8)

    assert short.vocabulary is long.vocabulary
    np.testing.assert_array_equal(short("cat"), long("cat")[:, :8])


def test_equal_by_what_it_does():
    one = tokenizer()
    content, config = small_tokenizers.files("bert").values()
    moved = json.dumps(json.loads(config) | {"name_or_path": "elsewhere"}).encode()
    other = dataclasses.replace(one, vocabulary=read_vocabulary(content, moved, "there"))

    assert one == other and hash(one) == hash(other)
    assert one == dataclasses.replace(one, missing="any reason")
    for different in (
        tokenizer("roberta", strip_sep_token=True),
        tokenizer(context_length=17),
        tokenizer(clean="lower"),
        tokenizer(strip_sep_token=False),
        dataclasses.replace(one, vocabulary=None),
        dataclasses.replace(one, vocabulary=vocabulary(padding_side="left")),
        dataclasses.replace(one, vocabulary=vocabulary(pad_token="[MASK]")),
    ):
        assert one != different


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_equal_and_works(copied):
    one = tokenizer()
    one("cat")
    other = copied(one)

    assert one == other and hash(one) == hash(other)
    np.testing.assert_array_equal(one("the cat"), other("the cat"))


def test_its_repr_is_short():
    assert len(repr(tokenizer())) < 500


def test_threads_share_it():
    tokenizers = [tokenizer(context_length=length) for length in (4, 8, 16)]
    captions = small_tokenizers.corpus(seed=2, lines=200)
    expected = [tokenizer(captions) for tokenizer in tokenizers]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: tokenizers[i % 3](captions), range(24)))

    for i, row in enumerate(rows):
        np.testing.assert_array_equal(row, expected[i % 3])


@pytest.mark.parametrize("texts", [None, 7, b"a cat", ["a cat", None]])
def test_a_caption_that_is_no_string_is_refused(texts):
    with pytest.raises(ValueError, match=r"caption . is of type"):
        tokenizer()(texts)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": ""}, "`name` must be a repository"),
        ({"context_length": 0}, "`context_length` must be a whole number"),
        ({"clean": "upper"}, "`clean` must be one of 'whitespace', 'lower', 'canonicalize'"),
        ({"strip_sep_token": 1}, "`strip_sep_token` must be true or false"),
    ],
)
def test_options_are_checked(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        JSONTokenizer(**({"name": "small"} | options))


def test_a_context_length_needs_room_for_what_the_file_adds():
    np.testing.assert_array_equal(tokenizer(context_length=2)("cat")[0, 1:], [0])
    with pytest.raises(ValueError, match="`context_length` must be at least 2"):
        tokenizer(context_length=1)("cat")


def test_a_separator_to_strip_must_be_there():
    with pytest.raises(ValueError, match="needs a separator"):
        tokenizer("gemma", strip_sep_token=True)


def test_without_its_file_it_says_which_and_where():
    missing = JSONTokenizer("org/name", 16, missing="there is no network")

    with pytest.raises(ValueError, match=r"'tokenizer\.json' is not here: there is no network"):
        missing("a cat")
    with pytest.raises(ValueError, match="the repository 'org/name' of the hub"):
        missing("a cat")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"model": 7}'])
def test_a_damaged_vocabulary_is_refused(content):
    with pytest.raises(ValueError, match=r"'tokenizer\.json' in here is damaged: .*Fetch it again"):
        read_vocabulary(content, b"{}", "here")


def test_half_a_vocabulary_is_refused():
    content = small_tokenizers.files("t5")["tokenizer.json"]
    for config in (b"{}", b'{"tokenizer_class": "T5Tokenizer"}'):
        with pytest.raises(ValueError, match=r"'tokenizer\.json' in here is damaged"):
            read_vocabulary(content[: len(content) // 2], config, "here")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (b"{", r"'tokenizer_config\.json' in here is damaged"),
        (b"[]", "it holds no object"),
        (b'{"padding_side": "top"}', "`padding_side` .* must be 'right' or 'left'"),
        (b'{"pad_token": "[FILL]"}', "no token that fills up rows"),
    ],
)
def test_a_configuration_is_checked(config, complaint):
    content = small_tokenizers.files("bert")["tokenizer.json"]
    with pytest.raises(ValueError, match=complaint):
        read_vocabulary(content, config, "here")


def test_a_configuration_without_a_class_is_completed_for_transformers():
    """Of `bert-base-uncased`: the class stands in a `config.json` there."""
    bare = read_vocabulary(small_tokenizers.files("bert")["tokenizer.json"], b"{}", "here")
    written = json.loads(config_to_write(bare))

    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (written["pad_token"], written["sep_token"]) == ("[PAD]", "[SEP]")
    assert read_vocabulary(bare.content, config_to_write(bare), "there") == bare
    whole = vocabulary()
    assert config_to_write(whole) == whole.config


def test_import_loads_no_tokenizing_library():
    code = (
        "import sys, eqx_clip.tokenizers.json_file; "
        "print({'tokenizers', 'ftfy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
