"""How far are whole models from OpenCLIP's, in float32, with the same random weights?

    python benchmarks/parity_at_full_size.py vit-huge-patch14 vit-huge-patch16

Needs the `test` extra, and about 14 GB of memory for the huge models. The tests compare three whole
models. Prints a table, and JSON with `--json FILE`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / folder) for folder in ("", "parity")]

from helpers import features, relative_error  # noqa: E402
from models import (  # noqa: E402
    batch_for,
    oracle_config,
    oracle_features,
    oracle_model,
    save_oracle,
)

import eqx_clip  # noqa: E402


def compare(name: str) -> dict[str, float]:
    """The largest difference over the largest value, by example, and seconds to load."""
    oracle = oracle_model(oracle_config(name))
    with tempfile.TemporaryDirectory() as folder:
        path = save_oracle(oracle, Path(folder) / "weights.safetensors")
        start = time.perf_counter()
        model = eqx_clip.load(name, path)
        seconds = time.perf_counter() - start
    images, tokens = batch_for(model)
    theirs = oracle_features(oracle, images, tokens)
    del oracle
    ours = features(model, images, tokens)
    parts = ("image features", "text features", "logits")
    errors = [relative_error(a, b) for a, b in zip(ours, theirs, strict=True)]
    return {**dict(zip(parts, errors, strict=True)), "load, s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["vit-huge-patch14", "vit-huge-patch16"])
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.models:
        results[name] = compare(name)
        figures = "  ".join(f"{part} {value:.2g}" for part, value in results[name].items())
        print(f"{name:20} {figures}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
