"""Tokenizers of a `tokenizer.json` against OpenCLIP's `HFTokenizer` on transformers, live."""

import warnings

import numpy as np
import pytest
import small_tokenizers
from helpers import TINY_CLIPA, tiny
from oracle import open_clip
from test_tokenizer import fuzzed_captions

import eqx_clip
from eqx_clip.tokenizers.cleaning import CLEANINGS, cleaned
from eqx_clip.tokenizers.json_file import JSONTokenizer
from eqx_clip.tokenizers.vocabulary import read_vocabulary


# Names of specials in a text, a text that is cut within a word, and nothing at all.
ODD = ["", " ", "\n\t", "_", "...", "word " * 300, "x" * 2000, "a\nb\r\nc", "[SEP] [CLS]x [MASK]"]
ODD += ["</s><s> <pad>", "<unk> <mask> a<mask>", "<eos><bos>", "<0x41> ▁a▁ ▁", "eng_Latn deu_Latn"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def theirs(folder, context_length, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_clip.tokenizer.HFTokenizer(
            str(folder), context_length=context_length, **options
        )


def ours(kind, context_length, **options):
    vocabulary = read_vocabulary(*small_tokenizers.files(kind).values(), "here")
    return JSONTokenizer("small", context_length, vocabulary=vocabulary, **options)


def options_of(kind):
    return small_tokenizers.OPTIONS.get(kind, {})


@pytest.mark.parametrize("clean", CLEANINGS)
def test_cleaning(clean):
    clean_fn = open_clip.tokenizer.get_clean_fn(clean)
    for text in [*fuzzed_captions(20, 3_000), *ODD]:
        assert cleaned(text, clean) == clean_fn(text), ascii(text)


@pytest.mark.parametrize("context_length", [2, 16, 64])
@pytest.mark.parametrize("kind", small_tokenizers.KINDS)
def test_ids(kind, context_length, tmp_path):
    folder = small_tokenizers.write(kind, tmp_path)
    texts = [*fuzzed_captions(21, 300), *small_tokenizers.corpus(3, 200), *ODD]
    rows = ours(kind, context_length, **options_of(kind))(texts)
    expected = theirs(folder, context_length, **options_of(kind))(texts).numpy()
    differ = np.flatnonzero((rows != expected).any(1))

    assert not differ.size, f"{texts[differ[0]]!a}: {rows[differ[0]]}, not {expected[differ[0]]}"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_saved_folder_is_openclips(kind, bare, tmp_path):
    """Of a repository whose class stands elsewhere, too: OpenCLIP finds one in what we write."""
    folder = tmp_path / "model"
    config = {**TINY_CLIPA, "text_cfg": {**TINY_CLIPA["text_cfg"]}}
    if kind != "bert":
        del config["text_cfg"]["tokenizer_kwargs"]
    eqx_clip.save(tiny(config), folder)
    small_tokenizers.write(kind, folder)
    if bare:
        (folder / "tokenizer_config.json").write_text("{}")
    model = eqx_clip.load(folder)
    eqx_clip.save(model, tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'again'}")
    texts = [*small_tokenizers.corpus(5, 50), *ODD]

    np.testing.assert_array_equal(model.tokenize(texts), tokenizer(texts).numpy())
