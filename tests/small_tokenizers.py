"""Small tokenizers of each kind that OpenCLIP's models have, trained here, as folders."""

import functools
import json
import random

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)


WORDS = """
a photo of the small red cat sitting on an old sofa it is not they are I have we will she would
don't isn't 2024 3.14 www.example.com semi-detached snake_case naïve CAFÉ Straße İstanbul ΑΣ мир
привет 日本語 ひらがな 한국어 हिन्दी العربية 猫 犬 two dogs running through tall grass by a river
""".split()
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
T5 = ("<pad>", "</s>", "<unk>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def corpus(seed=0, lines=400):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(lines)]


def _around(tokenizer, start, end):
    template = [*([start] if start else []), "$A", end]
    ids = [(name, tokenizer.token_to_id(name)) for name in {start, end} if name]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)


def _bert():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=[*BERT], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    _around(tokenizer, "[CLS]", "[SEP]")
    return tokenizer, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


def _roberta():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*ROBERTA],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = {name: tokenizer.token_to_id(name) for name in ROBERTA}
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), True, False
    )
    # The file cuts and fills up in its own way, which is not to be heeded.
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=9, pad_id=3)
    return tokenizer, {"tokenizer_class": "RobertaTokenizer"}


def _unigram(specials, *, byte_fallback=False):
    tokenizer = Tokenizer(models.Unigram())
    marks = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.normalizer = normalizers.NFKC() if byte_fallback else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(marks)
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=[*specials], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if byte_fallback:
        model = json.loads(tokenizer.to_str())["model"]
        vocab = [(piece, score) for piece, score in model["vocab"]]
        vocab += [(byte, -9.0) for byte in BYTES]
        tokenizer.model = models.Unigram(vocab, model["unk_id"], byte_fallback=True)
    return tokenizer


def _t5():
    tokenizer = _unigram(T5)
    _around(tokenizer, None, "</s>")
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "</s>"}
    return tokenizer, config


def _t5_without_first_mark():
    """As transformers 4 writes such a file; transformers 5 puts its mark before every word."""
    content, config = files("t5").values()  # training it again gives another vocabulary
    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    return tokenizer, json.loads(config)


def _xlm_roberta():
    tokenizer = _unigram(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # as in some files
    _around(tokenizer, "<s>", "</s>")
    return tokenizer, {"tokenizer_class": "XLMRobertaTokenizerFast"}


def _unigram_with_bytes():
    tokenizer = _unigram(T5, byte_fallback=True)
    _around(tokenizer, None, "</s>")
    return tokenizer, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": {"content": "</s>", "__type": "AddedToken"},
        "padding_side": "left",
    }


def _bpe_of_marks(specials):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=[*specials, *BYTES], show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    # The bytes are pieces of the model, and no names that a text may spell.
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < len(specials)]
    return Tokenizer.from_str(json.dumps(data))


def _gemma():
    tokenizer = _bpe_of_marks(GEMMA)
    _around(tokenizer, None, "<eos>")
    return tokenizer, {
        "tokenizer_class": "GemmaTokenizer",
        "padding_side": "right",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
    }


def _nllb():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "deu_Latn", "<mask>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    _around(tokenizer, None, "</s>")  # older files know no language
    return tokenizer, {
        "tokenizer_class": "NllbTokenizer",
        "additional_special_tokens": ["eng_Latn", "deu_Latn"],
        "src_lang": "deu_Latn",
    }


_BUILDERS = {
    "bert": _bert,
    "roberta": _roberta,
    "t5": _t5,
    "t5 without first mark": _t5_without_first_mark,
    "xlm-roberta": _xlm_roberta,
    "unigram with bytes": _unigram_with_bytes,
    "gemma": _gemma,
    "nllb": _nllb,
}
KINDS = tuple(_BUILDERS)
# As the pairs of OpenCLIP have them.
OPTIONS = {
    "bert": {"strip_sep_token": True},
    "t5": {"clean": "canonicalize"},
    "t5 without first mark": {"clean": "canonicalize"},
    "gemma": {"clean": "canonicalize"},
    "unigram with bytes": {"clean": "lower"},
}


@functools.cache
def files(kind):
    """The two files of a small tokenizer, by name."""
    tokenizer, config = _BUILDERS[kind]()
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }


def write(kind, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(kind).items():
        (folder / name).write_bytes(content)
    return folder
