"""Does a run that is killed at a random moment end at the same bits as one that is not?

    python benchmarks/kill.py

A small CLIP is trained by `make_train_step` and saved by `Checkpointer` every few steps. Each row
is one `kill -9`, in turn at a random moment of the run and at a random moment of a save, followed
by a run that resumes to the end. Its state (parameters, moments, step) is compared with that of the
uninterrupted run by a hash of every leaf's bytes. The first row is a second uninterrupted run.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
from tqdm import tqdm


STEPS, EVERY = 12, 3
TRAIN = f"""
import hashlib, sys, time
sys.path[:0] = sys.argv[2:]
import equinox as eqx, jax, numpy as np
from eqx_clip import train
from helpers import images_for, tiny

def batch(step):
    rng = np.random.default_rng((0, step))
    tokens = rng.integers(1, 49000, (4, 13), dtype=np.int32)
    return {{"image": images_for(model, 4, seed=step), "tokens": tokens}}

model = tiny()
optimizer = train.adamw(train.cosine_schedule(1e-2, total_steps={STEPS}, warmup_steps=2))
step = train.make_train_step(optimizer)
with train.Checkpointer(sys.argv[1], config={{"seed": 0}}, keep=2) as checkpointer:
    start = checkpointer.latest()
    print("resumed", start, flush=True)
    if start is None:
        state = train.init_state(model, optimizer)
    else:
        state = checkpointer.restore(eqx.filter_eval_shape(train.init_state, model, optimizer))
    for number in range(int(state.step) + 1, {STEPS} + 1):
        state, _ = step(state, batch(number))
        print("step", number, flush=True)
        if number % {EVERY} == 0:
            jax.block_until_ready(state)
            print("saving", number, flush=True)
            checkpointer.save(number, state)
    begin = time.perf_counter()
    checkpointer.wait()
    print("waited", time.perf_counter() - begin)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(state):
    digest.update(str((leaf.dtype, leaf.shape)).encode() + np.asarray(leaf).tobytes())
print("state", digest.hexdigest())
"""


def start(folder: Path, cache: Path) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parents[1] / "tests")]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", TRAIN, str(folder), *paths]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> Iterator[list[str]]:
    assert process.stdout is not None
    return (line.split() for line in process.stdout)


def finish(folder: Path, cache: Path) -> dict[str, str]:
    """A run to its end: what it printed last of each kind."""
    process = start(folder, cache)
    told = dict(lines(process))
    if process.wait() != 0:
        raise RuntimeError(f"A run that nobody killed ended with {process.returncode}.")
    return told


def timed(folder: Path, cache: Path) -> tuple[float, float]:
    """Seconds from the first step to the last of an uninterrupted run, and of its last save."""
    times, told = [], {}
    process = start(folder, cache)
    for kind, value in lines(process):
        told[kind] = value
        if kind == "step":
            times.append(time.perf_counter())
    process.wait()
    return times[-1] - times[0], float(told["waited"])


def kill(folder: Path, cache: Path, mark: list[str], seconds: float) -> None:
    """A run that is killed so long after it printed `mark`."""
    process = start(folder, cache)
    for line in lines(process):
        if line == mark:
            time.sleep(seconds)
            process.kill()
            break
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("The run was over before it was killed: nothing was tested.")
    assert process.stdout is not None
    process.stdout.close()


def moment(
    rng: random.Random, saving: bool, training: float, save: float
) -> tuple[list[str], float]:
    """After which line, and how many seconds later."""
    if not saving:
        return ["step", "1"], rng.uniform(0, training)
    return ["saving", str(EVERY * rng.randint(1, STEPS // EVERY))], rng.uniform(0, 1.5 * save)


def main() -> None:
    options = common.parser(__doc__, rounds=20)
    options.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    arguments = options.parse_args()
    rng, rows = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cache = root / "cache"
        expected = finish(root / "first", cache)["state"]
        again = finish(root / "second", cache)["state"]
        training, save = timed(root / "third", cache)
        rows.append({"kill": 0, "during": "nothing", "identical": again == expected})
        for number in tqdm(range(1, arguments.rounds + 1), unit="kill", leave=False):
            folder = root / str(number)
            mark, seconds = moment(rng, number % 2 == 0, training, save)
            kill(folder, cache, mark, seconds)
            left = sorted(path.name for path in folder.glob("*"))
            told = finish(folder, cache)
            rows.append(
                {
                    "kill": number,
                    "during": "a save" if number % 2 == 0 else "training",
                    "after": f"{' '.join(mark)} + {1e3 * seconds:.0f} ms",
                    "left": ", ".join(left) or "nothing",
                    "half-written": any("tmp" in name for name in left),
                    "resumed at": told["resumed"],
                    "identical": told["state"] == expected,
                }
            )
    same = sum(row["identical"] for row in rows[1:])
    title = (
        f"{same} of {len(rows) - 1} killed and resumed runs ended at the uninterrupted run's bits"
    )
    common.report(title, rows, arguments.json)
    sys.exit(same != len(rows) - 1)


if __name__ == "__main__":
    main()
