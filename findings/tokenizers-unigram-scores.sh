#!/usr/bin/env bash
# tokenizers 0.23.3: `Tokenizer.from_str` reads the scores of a Unigram vocabulary, numbers in JSON
# with all their 17 digits, one unit in the last place off in one of seven. Where two ways to cut a
# text have the same score but for rounding, that decides: one vocabulary cuts a text in one way when
# it is read from its own `tokenizer.json`, and in another when it is handed over from Python.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
cat > "$folder/finding.py" <<'PYTHON'
import json
import random

from tokenizers import Tokenizer, models


def read(pieces):
    """The tokenizer of a file that holds these pieces and scores."""
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    return Tokenizer.from_str(json.dumps({"added_tokens": [], "model": model}))


def built(pieces):
    return Tokenizer(models.Unigram([tuple(piece) for piece in pieces], 0, False))


random.seed(0)
scores = {f"piece {i}": -random.uniform(1, 15) for i in range(2000)}
pieces = [["<unk>", 0.0], *map(list, scores.items())]
stored = dict(json.loads(read(pieces).to_str())["model"]["vocab"])
off = sum(stored[piece] != score for piece, score in scores.items())

tie = [["<unk>", 0.0], ["a", -11.692844665672597], ["aa", -14.6753271626681]]
from_file, from_python = (make(tie).encode("aaaaa").tokens for make in (read, built))
print(f"{off} of {len(scores)} scores are not those of the file")
print(f"read from a file: {from_file}; handed over: {from_python}")
assert off > 0, "scores are now read exactly"
assert from_file == ["a", "aa", "aa"]
assert from_python == ["aa", "aa", "a"]
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
