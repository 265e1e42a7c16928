"""How long until eqx_clip is imported, a model loaded, a first answer given? How much memory?

    python benchmarks/start.py

Every figure is of new processes, OpenCLIP's and ours in turn: the import above that of JAX and
Equinox; loading a local file of vit-large-patch14, with the peak of resident memory above the bare
import; and `examples/zero_shot.py` from start to end, with vit-base-patch32 on disk, against the
same in OpenCLIP.
"""

import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import common
from PIL import Image
from tqdm import tqdm


EXAMPLE = Path(__file__).parents[1] / "examples" / "zero_shot.py"

MEMORY = inspect.getsource(common.resident)
LOAD = {
    "eqx_clip": """
import eqx_clip, jax, jax.numpy as jnp, sys, time
jnp.zeros(1).block_until_ready()
bare, start = resident("VmRSS:"), time.perf_counter()
model = eqx_clip.load("vit-large-patch14", sys.argv[1])
jax.block_until_ready(jax.tree.leaves(model))
""",
    "OpenCLIP": """
import os, sys, time
sys.path[:0] = sys.argv[2:]
from oracle import open_clip, torch
torch.set_num_threads(os.cpu_count())
bare, start = resident("VmRSS:"), time.perf_counter()
model = open_clip.create_model("ViT-L-14", pretrained=sys.argv[1])
""",
}
LOADED = """
import json
print(json.dumps([time.perf_counter() - start, resident("VmHWM:") - bare]))
"""
THEIR_EXAMPLE = """
import os, sys
image, model, weights = sys.argv[1:4]
sys.path[:0] = sys.argv[4:]
from oracle import open_clip, torch
from PIL import Image
torch.set_num_threads(os.cpu_count())
model, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=weights)
model.eval()
texts = ["a diagram", "a dog", "a cat"]
with torch.no_grad():
    pixels = preprocess(Image.open(image)).unsqueeze(0)
    image_features = model.encode_image(pixels, normalize=True)
    text_features = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(texts), normalize=True)
    probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(-1)[0]
for text, probability in zip(texts, probabilities):
    print(f"{probability:6.1%} {text}")
"""


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout


def save_weights(name: str, path: Path) -> Path:
    """Random weights as OpenCLIP has them. In a process of its own, whose memory goes with it."""
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; from models import *;"
        "save_oracle(oracle_model(oracle_config(sys.argv[1])), sys.argv[2])"
    )
    run(["-c", code, name, path, *sys.path[:2]])
    return path


def imports(rounds: int) -> list[common.Row]:
    bare, whole = "import jax, equinox", "import jax, equinox, eqx_clip"
    seconds = common.alternate(
        {code: lambda code=code: run(["-c", code]) for code in (bare, whole)}, rounds
    )
    return [
        {
            **{"what": "import eqx_clip", "eqx_clip, s": seconds[whole], "bare, s": seconds[bare]},
            "above, s": seconds[whole] - seconds[bare],
        }
    ]


def loading(folder: Path, rounds: int) -> list[common.Row]:
    path = save_weights("vit-large-patch14", folder / "large.safetensors")
    measured: dict[str, list[list[float]]] = {side: [] for side in LOAD}
    for _ in tqdm(range(rounds), unit="round", leave=False):
        for side, code in LOAD.items():
            output = run(["-c", MEMORY + code + LOADED, path, *sys.path[:2]])
            measured[side].append(json.loads(output.splitlines()[-1]))
    rows = []
    for side, figures in measured.items():
        seconds, peaks = zip(*figures, strict=True)
        rows.append(
            {
                **{"what": "load vit-large-patch14", "side": side},
                **{"s": statistics.median(seconds), "peak, MB": statistics.median(peaks) / 1e6},
                "peak / file": statistics.median(peaks) / path.stat().st_size,
            }
        )
    path.unlink()
    return rows


def first_answers(folder: Path, rounds: int) -> list[common.Row]:
    weights = save_weights("vit-base-patch32", folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": json.loads(run(["-c", CONFIG, *sys.path[:2]])),
        "preprocess_cfg": {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    image = folder / "image.jpg"
    Image.effect_mandelbrot((640, 480), (-2, -1, 1, 1), 50).convert("RGB").save(image)
    ours = [EXAMPLE, image, "a diagram", "a dog", "a cat", "--model", folder]
    theirs = ["-c", THEIR_EXAMPLE, image, "ViT-B-32", weights, *sys.path[:2]]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    seconds = common.alternate(
        {
            "eqx_clip": lambda: run(ours),
            "OpenCLIP": lambda: run(theirs),
            "with JAX's compilation cache": lambda: run(ours, cache),
        },
        rounds,
    )
    ratio = seconds["OpenCLIP"] / seconds["eqx_clip"]
    return [{"what": "first answer, s", **seconds, "OpenCLIP / eqx_clip": ratio}]


CONFIG = """
import json, sys
sys.path[:0] = sys.argv[1:]
from models import oracle_config
print(json.dumps(oracle_config("vit-base-patch32")))
"""


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "Import": imports(arguments.rounds),
            "Loading": loading(folder, arguments.rounds),
            "First answer": first_answers(folder, arguments.rounds),
        }
    for title, rows in parts.items():
        common.report(title, rows, None)
    common.report("All", [row for rows in parts.values() for row in rows], arguments.json)
    print(f"\n{time.perf_counter() - start:.0f} s in all.")


if __name__ == "__main__":
    main()
