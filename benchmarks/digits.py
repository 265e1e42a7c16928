"""Does training spread over a mesh learn what one device learns?

    python benchmarks/digits.py

`examples/train.py` learns the digits of the demo once on one device in float32, and once on 8
virtual devices, a (4, 2) mesh of "data" and "fsdp", in bfloat16, with gradients accumulated in two
parts. The table has the zero-shot accuracy of both on digits held out, for several seeds, which
decide the split, the model, the order and the crops.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from tqdm import tqdm

import eqx_clip


EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
import demo  # noqa: E402
import learn_digits  # noqa: E402


SIDES = {
    "one device, float32": (1, []),
    "4 x 2 devices, bfloat16, 2 parts": (
        8,
        ["--mesh", "4", "2", "--dtype", "bfloat16", "--accumulate", "2"],
    ),
}


def train(folder: Path, run: str, devices: int, options: list[str]) -> None:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(EXAMPLES / "train.py"), *options, "--checkpoint-dir", run]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def learn(folder: Path, seed: int, epochs: int) -> common.Row:
    """Both accuracies, in percent."""
    demo.write_data(folder, seed)
    (folder / "model.json").write_text(json.dumps(demo.MODEL))
    same = ["--train-path", "train.csv", "--model-name", "model.json", "--seed", str(seed)]
    same += ["--image-key", "image_path", "--text-key", "caption"]
    same += ["--global-batch-size", str(learn_digits.BATCH_SIZE), "--n-epochs", str(epochs)]
    same += ["--augment-scale", "0.8", "1.0", "--learning-rate", "2e-3", "--n-warmup-steps", "12"]
    row: common.Row = {"seed": seed}
    for i, (side, (devices, options)) in enumerate(SIDES.items()):
        train(folder, f"run{i}", devices, [*same, *options])
        model = eqx_clip.load(folder / f"run{i}" / "open_clip")
        with contextlib.redirect_stdout(None):
            row[f"{side}, %"] = 100 * learn_digits.accuracy(folder, model)
    first, second = list(row.values())[1:]
    return {**row, "difference, points": second - first}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    rows = []
    for seed in tqdm(arguments.seeds, unit="seed"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(learn(Path(folder), seed, arguments.epochs))
    common.report("Zero-shot accuracy on held-out digits", rows, arguments.json)


if __name__ == "__main__":
    main()
