"""Does training spread over a mesh learn what one device learns?

    python benchmarks/digits.py

The training of `examples/learn_digits.py` in one process, once on one device in float32, and once
on 8 virtual devices, a (4, 2) mesh of "data" and "fsdp", in bfloat16, with gradients accumulated in
two parts. The table has the zero-shot accuracy of both on digits held out, for several seeds, which
decide the split, the model, the order and the crops.
"""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from tqdm import tqdm

import eqx_clip


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import learn_digits


# The example's own options are those of a mesh; the later of two counts.
SIDES = {
    "one device, float32": (1, "--mesh 1 1 --dtype float32 --accumulate 1"),
    "4 x 2 devices, bfloat16, 2 parts": (8, ""),
}


def learn(folder: Path, seed: int, epochs: int) -> common.Row:
    """Both accuracies, in percent."""
    steps = epochs * (learn_digits.write_data(folder, seed) // learn_digits.BATCH_SIZE)
    row: common.Row = {"seed": seed}
    for side, (devices, own) in SIDES.items():
        run = folder / f"{devices}_devices"
        options = learn_digits.training_options(folder, epochs, steps, seed)
        command = [*learn_digits.TRAIN, *options, *own.split(), "--checkpoint-dir", str(run)]
        environment = learn_digits.environment_of(devices)
        subprocess.run(command, env=environment, check=True, capture_output=True)
        with contextlib.redirect_stdout(None):
            accuracy = learn_digits.accuracy(folder, eqx_clip.load(run / "open_clip"))
        row[f"{side}, %"] = 100 * accuracy
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
