"""How many rows of ids differ from OpenCLIP's, for each kind of `tokenizer.json`?

    python benchmarks/tokenizer_parity.py --texts 20000

Needs the `test` extra. The tokenizers are small ones, trained here; with the package sentencepiece
also some that transformers makes of a sentencepiece model, as OpenCLIP's importer does, which read
a text by sentencepiece's own table of characters. Prints a line for each kind and context length.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


os.environ["HF_HUB_OFFLINE"] = "1"
TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("", "parity")]
warnings.simplefilter("ignore")

import small_tokenizers  # noqa: E402
from oracle import open_clip  # noqa: E402
from test_tokenizer import fuzzed_captions  # noqa: E402

from eqx_clip.tokenizers.json_file import JSONTokenizer  # noqa: E402
from eqx_clip.tokenizers.vocabulary import CONFIG_FILE, FILE, read_vocabulary  # noqa: E402


HFTokenizer = open_clip.tokenizer.HFTokenizer


def folders(root: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    for kind in small_tokenizers.KINDS:
        folder = small_tokenizers.write(kind, root / kind)
        yield kind, folder, small_tokenizers.OPTIONS.get(kind, {})
    try:
        import sentencepiece
    except ImportError:
        return
    import transformers

    # As OpenCLIP's importer, `SigLipTokenizer`, sets them, which transformers 5 no longer lets run.
    t5, gemma = transformers.T5Tokenizer, transformers.GemmaTokenizer
    ends = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True}
    for kind, file, model_type, tokenizer_class, options in (
        ("c4-en", "spiece.model", "unigram", t5, {"extra_ids": 0, "pad_token": "</s>"}),
        ("gemma by sentencepiece", "tokenizer.model", "bpe", gemma, ends),
    ):
        is_bpe = model_type == "bpe"
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(small_tokenizers.corpus(lines=2000)),
            model_writer=model,
            model_type=model_type,
            vocab_size=600,
            hard_vocab_limit=False,
            byte_fallback=is_bpe,
            normalization_rule_name="identity" if is_bpe else "nmt_nfkc",
            add_dummy_prefix=not is_bpe,
            remove_extra_whitespaces=not is_bpe,
            pad_id=0,
            eos_id=1,
            unk_id=3 if is_bpe else 2,
            bos_id=2 if is_bpe else -1,
            pad_piece="<pad>",
            eos_piece="<eos>" if is_bpe else "</s>",
            bos_piece="<bos>",
            minloglevel=2,
        )
        (root / kind / "model").mkdir(parents=True)
        (root / kind / "model" / file).write_bytes(model.getvalue())
        tokenizer = tokenizer_class.from_pretrained(root / kind / "model", **options)
        tokenizer.save_pretrained(root / kind)
        yield kind, root / kind, {"clean": "canonicalize"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=20_000)
    arguments = parser.parse_args()
    half = arguments.texts // 2
    texts = [*fuzzed_captions(31, half), *small_tokenizers.corpus(32, arguments.texts - half)]
    with tempfile.TemporaryDirectory() as root:
        for kind, folder, options in folders(Path(root)):
            files = ((folder / name).read_bytes() for name in (FILE, CONFIG_FILE))
            vocabulary = read_vocabulary(*files, kind)
            for context in (16, 64):
                ours = JSONTokenizer(kind, context, vocabulary=vocabulary, **options)
                start = time.perf_counter()
                rows = ours(texts)
                middle = time.perf_counter()
                theirs = HFTokenizer(str(folder), context_length=context, **options)
                ready = time.perf_counter()
                expected = theirs(texts).numpy()
                end = time.perf_counter()
                differ = int((rows != expected).any(1).sum())
                print(
                    f"{kind}, {context} ids: {differ} of {len(texts):,} rows differ; "
                    f"{1e6 * (middle - start) / len(texts):.0f} us a text, "
                    f"OpenCLIP {1e6 * (end - ready) / len(texts):.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
