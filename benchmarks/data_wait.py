"""Does input hide behind compute, where the pipeline alone is 1.5 x as fast as the step?

    python benchmarks/data_wait.py

JPEGs of 640 x 480 are decoded, cropped to 224 pixels and handed over by `train.prefetch`. First the
pipeline runs alone, and gives the seconds of a batch. Then a loop as in `examples/train.py` takes
1.5 times as long for each step, asleep: it stands for a device that leaves the host's cores alone.
`train.Meter` says which share of the time the loop waited. A step on the CPU itself would slow the
pipeline down, and is no such device.
"""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
from embed import write_jpegs
from tqdm import tqdm

import eqx_clip
from eqx_clip import sharding, train
from eqx_clip.data import AbstractSource, batches, open_source


EXAMPLES, BATCH, STEPS, SLOWER = 1024, 32, 40, 1.5


def write_images(folder: Path) -> AbstractSource:
    rows = [f"{path.name},picture {i}\n" for i, path in enumerate(write_jpegs(folder, EXAMPLES))]
    (folder / "train.csv").write_text("image,text\n" + "".join(rows))
    return open_source(folder / "train.csv")


@contextlib.contextmanager
def ready(source: AbstractSource, workers: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Batches on the device, after the first: workers have started. None is left behind."""
    crop, tokenizer = eqx_clip.Augment(224), eqx_clip.Tokenizer()
    options: Any = {"batch_size": BATCH, "num_workers": workers}
    with (
        batches(source, preprocess=crop, tokenizer=tokenizer, **options) as data,
        contextlib.closing(train.prefetch(data, sharding.make_mesh())) as feed,
    ):
        next(feed)
        yield itertools.islice(feed, STEPS)


def seconds_alone(source: AbstractSource, workers: int) -> float:
    with ready(source, workers) as feed:
        start = time.perf_counter()
        for _ in feed:
            pass
        return (time.perf_counter() - start) / STEPS


def wait_share(source: AbstractSource, workers: int, step: float) -> float:
    meter = train.Meter()
    with ready(source, workers) as feed:
        meter.reset()
        for _ in meter.waits(feed):
            time.sleep(step)
            meter.count(BATCH)
        return meter.read()["data_wait"]


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    arguments = parser.parse_args()
    rows: list[common.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        source = write_images(Path(folder))
        for workers in arguments.workers:
            alone, shares = [], []
            for _ in tqdm(range(arguments.rounds), desc=f"{workers} workers", unit="round"):
                alone.append(seconds_alone(source, workers))
                shares.append(wait_share(source, workers, SLOWER * alone[-1]))
            row: common.Row = {"workers": workers, "images/s alone": BATCH / np.median(alone)}
            row |= {"step of pipeline": SLOWER, "data wait": statistics.median(shares)}
            rows.append(row | {"worst": max(shares)})
    common.report("Waiting for data", rows, arguments.json)


if __name__ == "__main__":
    main()
