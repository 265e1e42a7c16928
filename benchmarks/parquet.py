"""How fast is Parquet with images inside, against the same in tar shards?

    python benchmarks/parquet.py

10,000 JPEGs of 256 x 256 in one exact random order, decoded, tokenized and batched in this process,
each container in turn. Then the peak of memory over whole epochs of 2,500 and of 10,000 rows, each
in a new process, and how much processor time it takes to open 1,000,000 rows of paths in 50 Parquet
files and in one CSV.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

import eqx_clip
from eqx_clip.data import batches, open_source


LAYOUTS = {
    "Parquet, as pyarrow writes it": {},
    "Parquet, as datasets writes it": {"row_group_size": 100, "write_page_index": True},
    "Parquet, uncompressed": {"compression": "none"},
}
SIDE = 256  # pixels
DISTINCT = 64  # pictures
BATCH = 64


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--table-rows", type=int, default=1_000_000)
    parser.add_argument("--epoch", help=argparse.SUPPRESS)  # a path: an epoch, and its peak
    arguments = parser.parse_args()
    if arguments.epoch:
        for _ in feed(arguments.epoch):
            pass
        status = Path("/proc/self/status").read_text()
        print(re.search(r"VmHWM:\s*(\d+) kB", status)[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EQX_CLIP_CACHE"] = f"{folder}/index"
        rows = speeds(Path(folder), arguments)
        rows += memories(Path(folder), arguments)
        rows += openings(Path(folder), arguments)
        common.report("Parquet with images inside", rows, arguments.json)


def speeds(folder: Path, arguments: argparse.Namespace) -> list[common.Row]:
    images = pictures(arguments.rows)
    paths = {"tar": write_tar(folder / "0.tar", images)}
    for number, (name, options) in enumerate(LAYOUTS.items()):
        paths[name] = write_parquet(folder / f"{number}.parquet", images, **options)
    seconds = {}
    for name, path in paths.items():
        start = time.process_time()
        open_source(path)
        seconds[name] = time.process_time() - start
    sides = {name: lambda path=path: [None for _ in feed(path)] for name, path in paths.items()}
    epochs = common.alternate(sides, arguments.rounds, warmups=0)
    return [
        {
            "container": name,
            "images/s": round(arguments.rows / epochs[name], 1),
            "to tar": round(epochs["tar"] / epochs[name], 3),
            "opening, s of CPU": round(seconds[name], 2),
        }
        for name in paths
    ]


def memories(folder: Path, arguments: argparse.Namespace) -> list[common.Row]:
    rows = []
    for name, options in LAYOUTS.items():
        peaks = []
        for count in (arguments.rows // 4, arguments.rows):
            path = write_parquet(folder / "memory.parquet", pictures(count), **options)
            open_source(path)  # the index is there, as it is from the second run on
            command = [sys.executable, __file__, "--epoch", path]
            peaks.append(json.loads(subprocess.check_output(command)) / 1024)
        few, many = (f"{peak:.0f}" for peak in peaks)
        rows.append({"container": name, f"{arguments.rows // 4} rows, MB": few, "all, MB": many})
    return rows


def openings(folder: Path, arguments: argparse.Namespace) -> list[common.Row]:
    (folder / "tables").mkdir()
    count = arguments.table_rows
    names = [f"images/{i:07}.jpg" for i in range(count)]
    texts = [f"a photo of number {i}, and some words that go with it" for i in range(count)]
    table = pa.table({"filepath": names, "title": texts})
    for k in range(50):
        part = table.slice(k * count // 50, count // 50)
        pyarrow.parquet.write_table(part, folder / "tables" / f"{k:05}.parquet")
    with open(folder / "table.csv", "w") as stream:
        stream.write("filepath\ttitle\n")
        stream.writelines(f"{name}\t{text}\n" for name, text in zip(names, texts, strict=True))
    rows = []
    for name, path in (("CSV", "table.csv"), ("50 Parquet files", "tables")):
        start = time.process_time()
        open_source(folder / path)
        rows.append({"container": name, "opening, s of CPU": round(time.process_time() - start, 2)})
    return rows


def pictures(count: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(DISTINCT):
        small = generator.integers(0, 256, (SIDE // 16, SIDE // 16, 3), np.uint8)
        image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        noisy = np.asarray(image) + generator.normal(0, 6, (SIDE, SIDE, 3))
        stream = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return [found[i % DISTINCT] + b"%d" % i for i in range(count)]  # no two are the same


def write_tar(path: Path, images: list[bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for i, image in enumerate(images):
            for end, data in (("jpg", image), ("txt", f"picture {i}".encode())):
                member = tarfile.TarInfo(f"{i:09}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


def write_parquet(path: Path, images: list[bytes], **options) -> str:
    structs = [{"bytes": image, "path": f"{i}.jpg"} for i, image in enumerate(images)]
    texts = [f"picture {i}" for i in range(len(images))]
    pyarrow.parquet.write_table(pa.table({"image": structs, "text": texts}), path, **options)
    return str(path)


def feed(path: str):
    return batches(
        open_source(path),
        batch_size=BATCH,
        preprocess=eqx_clip.Preprocess(),
        tokenizer=eqx_clip.Tokenizer(),
        epochs=1,
    )


if __name__ == "__main__":
    main()
