"""How many images a second can this machine feed, against OpenCLIP's own loaders?

    pip install pandas 'webdataset<=0.2.86'    # which OpenCLIP's loaders need
    python benchmarks/input_pipeline.py

The same JPEGs and captions from a CSV and from tar shards, decoded, cropped as in training,
tokenized and batched by two workers: `eqx_clip.data.batches` against `open_clip_train.data`, each
in new processes, in turn. Start-up is the time to the first batch; images/s are of the rest of one
epoch. Then large JPEGs with reduced decoding and its error, what the time goes into, how long data
sets take to open, and whether memory grows from epoch to epoch.
"""

import argparse
import csv
import importlib
import inspect
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow.csv
import pyarrow.parquet
from PIL import Image
from tqdm import tqdm


SMALL = ((640, 480),)
LARGE = ((1600, 1200), (2048, 1536))
DISTINCT = 64  # pictures of which a data set is made
SHARDS = 4
FILES = 50  # of Parquet, that hold the rows of the CSV
AHEAD = 4  # batches that the workers of either side prepare ahead


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=2048, help="an epoch (%(default)s)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the tables that are opened")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of TFRecord to open")
    parser.add_argument("--feed", nargs=3, help=argparse.SUPPRESS)  # side, path, draft: one run
    arguments = parser.parse_args()
    if arguments.feed:
        side, path, draft = arguments.feed
        print(json.dumps(measure(SIDES[side](path, int(draft) or None, arguments), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EQX_CLIP_CACHE"] = f"{folder}/index"
        rows = fed(write(Path(folder, "small"), arguments.images, SMALL), arguments)
        large = write(Path(folder, "large"), arguments.images // 2, LARGE)
        rows += fed(large, arguments, drafts=(0, 2, 1))
        common.report("Images/s", rows, arguments.json)
        common.report(
            "Where the time goes, ms an image", [*shares("small"), *shares("large")], None
        )
        common.report(
            "Opening", [*table_rows(folder, arguments), *tfrecord_rows(folder, arguments)], None
        )
        common.report("Order", [order_row()], None)
        common.report("Memory, MB", [memory_row(folder, arguments)], None)


def write(folder: Path, count: int, sizes: tuple[tuple[int, int], ...]) -> dict[str, str]:
    """The same examples as a CSV and as tar shards, as OpenCLIP reads them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = [common.jpeg(rng, *sizes[i % len(sizes)]) for i in range(min(DISTINCT, count))]
    words = "a an the red old big small dog cat house tree river runs sits under near with".split()
    texts = [" ".join(rng.choice(words, rng.integers(10, 16))) for _ in range(count)]
    with open(folder / "table.csv", "w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for i, text in enumerate(texts):
            path = folder / f"{i:05}.jpg"
            path.write_bytes(pictures[i % len(pictures)])
            writer.writerow([path, text])
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for i in range(shard, count, SHARDS):
                members = {"jpg": pictures[i % len(pictures)], "txt": texts[i].encode()}
                for extension, data in members.items():
                    member = tarfile.TarInfo(f"{i:05}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    name = f"{sizes[0][0]} x {sizes[0][1]} and larger" if len(sizes) > 1 else "640 x 480"
    return {
        f"CSV, {name}": str(folder / "table.csv"),
        f"tar, {name}": str(folder / f"{{00000..{SHARDS - 1:05}}}.tar"),
    }


def fed(data: dict[str, str], arguments: Any, drafts: tuple[int, ...] = (0,)) -> list[common.Row]:
    """One row for each data set and kind of decoding, both sides in turn."""
    rows = []
    for what, path in data.items():
        sides = {("OpenCLIP", 0): [], **{("eqx_clip", draft): [] for draft in drafts}}
        for _ in tqdm(range(arguments.rounds), desc=what, leave=False):
            for (side, draft), runs in sides.items():
                runs.append(one_run(side, path, draft, arguments))
        rows += [row(what, path, draft, sides) for draft in drafts]
    return rows


def row(what: str, path: str, draft: int, sides: dict[tuple[str, int], list]) -> common.Row:
    """Medians of both sides, eqx_clip's with this kind of decoding."""
    (our_start, ours), (their_start, theirs) = (
        map(statistics.median, zip(*sides[key], strict=True))
        for key in (("eqx_clip", draft), ("OpenCLIP", 0))
    )
    return {
        **{"what": what, "draft": draft or "exact"},
        **{"eqx_clip": ours, "a core": ours / (os.cpu_count() or 1)},
        **{"OpenCLIP": theirs, "ratio": ours / theirs},
        **{"start, s": our_start, "OpenCLIP's start, s": their_start, **error(path, draft)},
    }


def one_run(side: str, path: str, draft: int, arguments: Any) -> list[float]:
    options = [f"--{name}={getattr(arguments, name)}" for name in ("images", "batch", "workers")]
    command = [sys.executable, __file__, "--feed", side, path, str(draft), *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def measure(feed: Callable[[], Iterator[Any]], arguments: Any) -> list[float]:
    """Seconds to the first batch, and images/s once what was prepared ahead is used up.

    The last batches are left out: while they are waited for, some workers have nothing to do.
    OpenCLIP's workers make a batch each, which come all at once: a multiple of them is measured.
    """
    start = time.perf_counter()
    times = [time.perf_counter() for _ in feed()]
    workers = arguments.workers
    count = (len(times) - 2 * AHEAD - 1) // workers * workers
    if count < 1:
        raise ValueError(f"--images must be more than {2 * AHEAD + workers} batches.")
    seconds = times[AHEAD + count] - times[AHEAD]
    return [times[0] - start, count * arguments.batch / seconds]


def ours(path: str, draft: int | None, arguments: Any) -> Callable[[], Iterator[Any]]:
    import eqx_clip
    from eqx_clip.data import batches, open_source

    return lambda: batches(
        open_source(path),
        **{"batch_size": arguments.batch, "num_workers": arguments.workers, "epochs": 1},
        **{"preprocess": eqx_clip.Augment(224, draft=draft), "tokenizer": eqx_clip.tokenize},
        **{"process_index": 0, "process_count": 1},
    )


def theirs(path: str, draft: int | None, arguments: Any) -> Callable[[], Iterator[Any]]:
    from oracle import open_clip

    data: Any = importlib.import_module("open_clip_train.data")  # after what mends torchvision
    transform = open_clip.image_transform(224, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    count = arguments.images if "small" in path else arguments.images // 2
    options = argparse.Namespace(
        **{"train_data": path, "train_num_samples": count, "train_data_upsampling_factors": None},
        **{"csv_img_key": "filepath", "csv_caption_key": "title", "csv_separator": "\t"},
        **{"batch_size": arguments.batch, "workers": arguments.workers, "distributed": False},
        **{"world_size": 1, "seed": 0, "dataset_resampled": False},
    )
    make = data.get_csv_dataset if path.endswith(".csv") else data.get_wds_dataset
    return lambda: iter(make(options, transform, True, tokenizer=tokenizer).dataloader)


SIDES = {"eqx_clip": ours, "OpenCLIP": theirs}


def error(path: str, draft: int) -> common.Row:
    """By how much reduced decoding changes evaluation pixels, of 255."""
    if not draft or not path.endswith(".csv"):
        return {}
    import eqx_clip

    files = sorted(Path(path).parent.glob("*.jpg"))[:16]
    exact, fast = (
        np.stack([eqx_clip.Preprocess(224, draft=d).pixels(file) for file in files]).astype(int)
        for d in (None, draft)
    )
    difference = np.abs(exact - fast)
    return {"largest error": int(difference.max()), "mean error": float(difference.mean())}


def shares(what: str) -> list[common.Row]:
    """Milliseconds an image of reading, decoding, resizing and tokenizing, in one process."""
    import eqx_clip

    sizes = SMALL if what == "small" else LARGE
    rng = np.random.default_rng(0)
    augment = eqx_clip.Augment(224)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.jpg") for i in range(16)]
        for i, path in enumerate(paths):
            path.write_bytes(common.jpeg(rng, *sizes[i % len(sizes)]))
        encoded = [path.read_bytes() for path in paths]
        decoded = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
        texts = ["a caption of some ten words about a red house"] * len(paths)
        parts = {
            "read": lambda: [path.read_bytes() for path in paths],
            "decode": lambda: [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded],
            "crop and resize": lambda: [augment.pixels(image, rng) for image in decoded],
            "tokenize": lambda: eqx_clip.tokenize(texts),
        }
        seconds = common.alternate(parts, rounds=5)
    milliseconds = {part: 1e3 * time / len(paths) for part, time in seconds.items()}
    whole = sum(milliseconds.values())
    return [
        {"images": what, "part": part, "ms": time, "share": time / whole}
        for part, time in milliseconds.items()
    ]


OPEN = """
import pickle, sys, time
from eqx_clip.data import open_source
from tensorflow_datasets.proto import tf_example_pb2
import numpy, pyarrow
pyarrow.array(numpy.zeros(1))  # imports pandas, where it is installed
bare, wall, cpu = resident("VmRSS:"), time.perf_counter(), time.process_time()
source = open_source(sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak, before = resident("VmHWM:") - bare, resident("RssAnon:")
again = pickle.loads(pickle.dumps(source))
again.where(len(again) // 2), again.where(len(again) - 1)
print(f"[{wall}, {cpu}, {peak / 1e6}, {(resident('RssAnon:') - before) / 1e6}, {len(source)}]")
"""


def opened(path: str) -> tuple[float, float, float, float, int]:
    """Seconds, seconds of the processor, megabytes above the import, a worker's, and examples."""
    command = [sys.executable, "-c", inspect.getsource(common.resident) + OPEN, path]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def table_rows(folder: str, arguments: Any) -> list[common.Row]:
    """The same rows in one CSV, and in so many Parquet files as people have them."""
    path, files = Path(folder, "million.csv"), Path(folder, "million")
    with open(path, "w") as stream:
        stream.write("filepath,title,width\n")
        for i in range(arguments.rows):
            caption = f'"a caption, of about ten words, number {i} of a red house"'
            stream.write(f"images/{i // 1000:05}/{i:09}.jpg,{caption},640\n")
    files.mkdir()
    rows = pyarrow.csv.read_csv(path)
    for k, start in enumerate(range(0, len(rows), max(1, len(rows) // FILES))):
        part = rows.slice(start, max(1, len(rows) // FILES))
        pyarrow.parquet.write_table(part, files / f"train-{k:05}.parquet")
    found = []
    for what, where, aim in (("CSV", path, 3.0), (f"Parquet, {FILES} files", files, 3.8)):
        _, cpu, peak, worker, count = opened(str(where))
        assert count == arguments.rows
        found.append(
            {
                **{"what": what, "examples": count, "CPU s": cpu, "aim, s": aim, "MB": peak},
                **{"aim, MB": 250, "cached, CPU s": opened(str(where))[1]},
                "of a worker's own, MB": worker,
            }
        )
    return found


def tfrecord_rows(folder: str, arguments: Any) -> list[common.Row]:
    from eqx_clip.data import write_tfrecords

    example = {"image": common.jpeg(np.random.default_rng(0), 512, 384), "text": "a caption"}
    size = len(example["image"])
    count = int(arguments.gigabytes * 1e9 / size)
    path = Path(folder, "tfrecord")
    write_tfrecords([example] * count, path, shard_size=4000)
    rows = []
    for what, aim in (("TFRecord, first time, warm", 0.3), ("TFRecord, cached", 0.02)):
        seconds, *_, found = opened(str(path))
        assert found == count
        rows.append({"what": what, "examples": count, "s": seconds, "aim, s": aim})
    return rows


def order_row(size: int = 400_000_000, batch: int = 4096) -> common.Row:
    from eqx_clip.data._order import Order

    order = Order((size,), (1.0,), 0, True)
    start = time.perf_counter()
    for k in range(50):
        order.indices(0, k * batch, (k + 1) * batch)
    return {"of": size, "batch": batch, "ms": 20 * (time.perf_counter() - start), "aim, ms": 5}


def memory_row(folder: str, arguments: Any, count: int = 10_000, epochs: int = 10) -> common.Row:
    """Resident memory of this process and its workers after each epoch of small images."""
    import eqx_clip
    from eqx_clip.data import batches, open_source

    path, _ = write(Path(folder, "tiny"), count, ((64, 48),)).values()
    row: common.Row = {"examples": count, "epochs": epochs}
    options = {"batch_size": 250, "num_workers": arguments.workers, "epochs": epochs}
    feed = batches(
        open_source(path), preprocess=eqx_clip.Augment(32), tokenizer=eqx_clip.tokenize, **options
    )
    for step, _ in enumerate(feed, 1):
        epoch, rest = divmod(step, feed.steps_per_epoch)
        if not rest and epoch in (1, 2, epochs // 2, epochs - 1):  # then the workers end
            row[f"after epoch {epoch}"] = resident_of_all()
    return row


def resident_of_all() -> float:
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in processes)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
