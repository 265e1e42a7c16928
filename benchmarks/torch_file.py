"""Reading a large file of torch's, against `torch.load(weights_only=True)`.

    python benchmarks/torch_file.py --gigabytes 1.7

The file, a state dict of float32 matrices in a temporary folder, is written once. The sides take
turns, each run in a process of its own that has imported its library before the clock starts:
opening the file, and every tensor copied into memory that is its own, as `torch.load` does. Memory
is the highest resident memory of the process above what it held before; of a mapped file the pages
that were read count, too. The file is in the system's cache, as far as it fits.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import parser, report, resident


SIDES = ("eqx_clip", "torch.load")
ROWS = 1024  # of a matrix with 4096 columns, 16 MiB


def main(gigabytes: float, rounds: int, path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        write(weights, max(1, round(gigabytes * 1e9 / (4 * 4096 * ROWS))))
        size = weights.stat().st_size
        figures: dict[str, list[list[float]]] = {side: [] for side in SIDES}
        for i in range(rounds + 1):
            for side in SIDES:
                command = [sys.executable, __file__, "--side", side, "--file", str(weights)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                if i:  # the first round fills the system's cache
                    figures[side].append([float(x) for x in output.split()])
    rows = []
    for side, values in figures.items():
        opening, reading, busy, memory = map(list, zip(*values, strict=True))
        rows.append(
            {
                "reader": side,
                "opening, s": statistics.median(opening),
                "all read, s": statistics.median(reading),
                "slowest, s": max(reading),
                "of CPU, s": statistics.median(busy),
                "peak memory / file": f"{max(memory) / size:.3f}",
            }
        )
    report(f"A file of {size / 1e9:.2f} GB, {rounds} runs of each", rows, path)


def write(path: Path, count: int) -> None:
    import torch

    torch.save(
        {f"block.{i}.weight": torch.full((ROWS, 4096), float(i)) for i in range(count)}, path
    )


def measure(side: str, path: Path) -> None:
    """Prints seconds until the file is open, until all is read, and bytes of memory."""
    if side == "torch.load":
        import torch

        held, before, start = resident("VmRSS:"), time.process_time(), time.perf_counter()
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        opened = time.perf_counter() - start
    else:
        from eqx_clip.checkpoints.files.torch_zip import TorchFile
        from eqx_clip.checkpoints.rows.state_dict import _new_pages

        held, before, start = resident("VmRSS:"), time.process_time(), time.perf_counter()
        with TorchFile(path) as file:
            opened = time.perf_counter() - start
            tensors = {}
            for name in file:  # one view at a time: views keep the file mapped
                view = file[name]
                # as `load` does: NumPy's own copy asks for huge pages, and takes twice the time
                tensors[name] = _new_pages(view.shape, view.dtype)
                tensors[name][...] = view
    seconds, busy = time.perf_counter() - start, time.process_time() - before
    print(opened, seconds, busy, resident("VmHWM:") - held)
    assert len(tensors)


if __name__ == "__main__":
    options = parser(__doc__, rounds=5)
    options.add_argument("--gigabytes", type=float, default=1.7)
    options.add_argument("--side", choices=SIDES, help="one run, in this process, of --file")
    options.add_argument("--file", type=Path)
    arguments = options.parse_args()
    if arguments.side:
        measure(arguments.side, arguments.file)
    else:
        main(arguments.gigabytes, arguments.rounds, arguments.json)
