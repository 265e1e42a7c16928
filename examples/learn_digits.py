"""Trains on real digits in two processes, kills both in the middle, and resumes to the same bits.

    python examples/learn_digits.py [--folder learn] [--epochs 6] [--seed 0] [--fast]

The data and the model are those of `demo.py`. The training is what a cluster would do, on one
CPU: `train.py` in two processes of four virtual devices each, a (4, 2) mesh of "data" and "fsdp",
bfloat16, gradients accumulated in two parts, TFRecord files, sharded checkpoints. It runs twice:
once in peace, and once with `kill -9` to both processes half way and `--resume-from-checkpoint
latest` after it. The two must export the same weights, to the bit. It needs no network.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import demo
import numpy as np
from safetensors.numpy import load_file
from tqdm import tqdm

import eqx_clip
from eqx_clip import train
from eqx_clip.data import open_source, write_tfrecords


PROCESSES, DEVICES_EACH = 2, 4
TRAIN = [sys.executable, str(Path(__file__).with_name("train.py"))]
FAST_STEPS, BATCH_SIZE = 8, 128  # a step of two processes mostly waits: few large batches


def main(folder: Path, epochs: int, seed: int, fast: bool) -> float:
    """Both trainings. Returns the accuracy on the held-out digits."""
    peace, killed = folder / "in_peace", folder / "killed"
    for path in (peace, killed, folder / "shards"):
        if path.exists():
            raise FileExistsError(f"{path} is of an earlier run: name another --folder.")
    examples = write_data(folder, seed)
    steps = FAST_STEPS if fast else epochs * (examples // BATCH_SIZE)
    options = training_options(folder, 1 if fast else epochs, steps, seed)
    if fast:
        options += ["--train-n-samples", str(FAST_STEPS * BATCH_SIZE)]
    run_to_the_end(peace, options, steps)
    kill_in_the_middle(killed, options, steps)
    run_to_the_end(killed, [*options, "--resume-from-checkpoint", "latest"], steps)
    compare(peace, killed)
    return accuracy(folder, eqx_clip.load(killed / "open_clip"))


def write_data(folder: Path, seed: int) -> int:
    """Model, pictures and TFRecord files. Returns how many examples there are to train on."""
    demo.write_data(folder, seed)
    (folder / "model.json").write_text(json.dumps(demo.MODEL))
    source = open_source(folder / "train.csv", image_key="image_path", text_key="caption")
    write_tfrecords(source, folder / "shards", shard_size=4000)
    return len(source)


def training_options(folder: Path, epochs: int, steps: int, seed: int) -> list[str]:
    values = {
        "--train-path": folder / "shards",
        "--model-name": folder / "model.json",
        "--global-batch-size": BATCH_SIZE,
        "--augment-scale": "0.8 1.0",
        "--mesh": "4 2",
        "--dtype": "bfloat16",
        "--accumulate": 2,
        "--learning-rate": 2e-3,
        "--n-warmup-steps": steps // 20,
        "--n-epochs": epochs,
        "--seed": seed,
        "--checkpoint-steps": max(steps // 4, 1),
        "--log-freq": max(steps // 100, 1),
    }
    return [word for name, value in values.items() for word in (name, *str(value).split(" "))]


def environment_of(devices: int) -> dict[str, str]:
    """For a process with so many virtual devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


@contextlib.contextmanager
def processes(run: Path, options: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`train.py`, started in every process. None of them outlives the block."""
    run.mkdir(exist_ok=True)
    environment = {
        **environment_of(DEVICES_EACH),
        "JAX_COMPILATION_CACHE_DIR": str(run.parent / "compiled"),
    }
    command = [*TRAIN, *options, "--checkpoint-dir", str(run), "--num-processes", str(PROCESSES)]
    command += ["--coordinator-address", f"127.0.0.1:{free_port()}"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(PROCESSES):
            with output(run, i).open("ab") as file:
                own = [*command, "--process-id", str(i)]
                started.append(subprocess.Popen(own, env=environment, stdout=file, stderr=file))
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def output(run: Path, process: int) -> Path:
    return run / f"process_{process}.txt"


def run_to_the_end(run: Path, options: list[str], steps: int) -> None:
    with (
        processes(run, options) as started,
        tqdm(total=steps, desc=f"Training {run.name}", unit="step") as bar,
    ):
        while any(process.poll() is None for process in started):
            watch(run, started, bar)
        watch(run, started, bar)


def kill_in_the_middle(run: Path, options: list[str], steps: int) -> None:
    """`kill -9` to both processes, past half of the steps and once there is a checkpoint."""
    with (
        processes(run, options) as started,
        tqdm(total=steps, desc="Training, to be killed", unit="step") as bar,
    ):
        while bar.n <= steps // 2 or not list(run.glob("*/commit_success.txt")):
            watch(run, started, bar)
            if all(process.poll() == 0 for process in started):
                raise RuntimeError("The training was over before it could be killed: more --epochs")
    print(f"Killed after step {bar.n} of {steps}.")


def watch(run: Path, started: list[subprocess.Popen[bytes]], bar: tqdm) -> None:
    """Moves the bar to the last step that is logged, and raises if a process failed."""
    for i, process in enumerate(started):
        if process.poll():
            last = output(run, i).read_text(errors="replace")[-2000:]
            raise RuntimeError(f"Process {i} ended with {process.returncode}:\n{last}")
    log = run / "log.jsonl"
    done = [entry["step"] for entry in train.read_lines(log)] if log.exists() else []
    bar.update(max(done, default=0) - bar.n)
    time.sleep(0.1)


def compare(peace: Path, killed: Path) -> None:
    """Raises unless both runs exported the same bits. The files may differ: in their headers."""
    name = "open_clip/open_clip_model.safetensors"
    one, other = (
        {key: (x.dtype, x.tobytes()) for key, x in load_file(run / name).items()}
        for run in (peace, killed)
    )
    if one != other:
        raise RuntimeError(f"The weights differ: {peace / name} and {killed / name}.")
    print("The weights of the resumed run are those of the run in peace, to the bit.")


def accuracy(folder: Path, model: eqx_clip.CLIP) -> float:
    rows = demo.read_csv(folder / "held_out.csv")
    labels = np.array([int(row["digit"]) for row in rows])
    probabilities = demo.classify(model, [folder / row["image_path"] for row in rows])
    share = float(np.mean(probabilities.argmax(axis=1) == labels))
    print(f"Zero-shot accuracy on {len(rows)} held-out digits: {share:.1%} (chance: 10%)")
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learns digits, killed and resumed on the way.")
    parser.add_argument("--folder", type=Path, default=Path("learn"), help="where to write")
    parser.add_argument("--epochs", type=int, default=6, help="how long to train, 78 steps each")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the training")
    parser.add_argument("--fast", action="store_true", help=f"only {FAST_STEPS} steps")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    try:
        share = main(arguments.folder, arguments.epochs, arguments.seed, arguments.fast)
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped, and no process is left behind.")
    if share < 0.95 and not arguments.fast:
        sys.exit("That is less than the 95% that this should reach. Train longer: --epochs.")
