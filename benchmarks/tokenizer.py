"""How fast is the tokenizer against OpenCLIP's, from captions to an array (captions, 77)?

    python benchmarks/tokenizer.py

Captions of 5 to 17 words of the project's own documents; three in a hundred have letters beyond
ASCII, two have an entity of HTML.
"""

from pathlib import Path

import common
import numpy as np

import eqx_clip


def captions(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    root = Path(__file__).parents[1]
    documents = [(root / name).read_text(encoding="utf-8") for name in ("README.md", "LICENSE")]
    words = [word for word in " ".join(documents).split() if word.isascii() and "&" not in word]
    odd = {0: " at the café", 1: " naïve", 2: " “old”", 3: " this &amp; that", 4: " &lt;3"}
    return [
        " ".join(rng.choice(words, rng.integers(5, 18))) + odd.get(int(rng.integers(100)), "")
        for _ in range(count)
    ]


def main() -> None:
    parser = common.parser(__doc__, rounds=7)
    parser.add_argument("--captions", type=int, default=16_384)
    arguments = parser.parse_args()
    from oracle import open_clip

    texts = captions(arguments.captions)
    theirs, ours = open_clip.SimpleTokenizer(), eqx_clip.Tokenizer()
    rows = []
    for size in (1, 64, 1024):
        some = texts if size > 1 else texts[:2048]
        batches = [some[i : i + size] for i in range(0, len(some), size)]
        seconds = common.alternate(
            {
                "eqx_clip": lambda batches=batches: [ours(batch) for batch in batches],
                "OpenCLIP": lambda batches=batches: [theirs(batch) for batch in batches],
            },
            arguments.rounds,
        )
        micros = {name: 1e6 * time / len(some) for name, time in seconds.items()}
        rows.append(
            {
                **{"captions a call": size, "eqx_clip, us": micros["eqx_clip"]},
                **{"OpenCLIP, us": micros["OpenCLIP"]},
                "ratio": micros["OpenCLIP"] / micros["eqx_clip"],
            }
        )
    common.report("Tokenizer, microseconds a caption", rows, arguments.json)


if __name__ == "__main__":
    main()
