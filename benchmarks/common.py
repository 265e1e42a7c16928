"""What the benchmarks share: sides measured in turn, a table, JSON, and what ran where."""

import argparse
import datetime
import importlib.metadata
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm


# The oracle, and how the tests build its models with the same weights as ours.
sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / folder) for folder in ("", "parity")]

Row = dict[str, Any]


def parser(doc: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """Options that every benchmark has; without `rounds` those of one that measures no time."""
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds is not None:
        result.add_argument(
            "--rounds", type=int, default=rounds, help="runs of each side (%(default)s)"
        )
    result.add_argument("--json", type=Path, help="write the figures here, too")
    return result


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int, *, warmups: int = 1
) -> dict[str, float]:
    """Median seconds of each side. They take turns, so that a busy moment meets them all."""
    for _ in range(warmups):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(rounds), unit="round", delay=1, leave=False):
        for name, run in sides.items():
            time.sleep(0.05)  # threads of the side before come to rest
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def report(title: str, rows: Sequence[Row], path: Path | None) -> None:
    """Prints a Markdown table, and writes it with the machine and the versions as JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(_shown(row.get(key, '')) for key in columns)} |")
    if path is not None:
        path.write_text(json.dumps({"title": title, **machine(), "rows": rows}, indent=2) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else f"{value}"


def machine() -> dict[str, Any]:
    """Processor, cores, versions and date."""
    names = ("jax", "equinox", "numpy", "pillow", "tiktoken", "torch", "open_clip_torch", "timm")
    names += ("libtpu",)
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version for name in names if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                wide = ", AVX-512" if "avx512f" in path.read_text() else ""
                return line.partition(":")[2].strip() + wide
    return platform.processor()


def jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A picture of edges, gradients and noise, of as many bytes as a photograph of this size."""
    y, x = np.mgrid[:height, :width] / 100
    waves = rng.uniform(-3, 3, (6, 3))
    picture = sum(np.sin(a * x + b * y + c) for a, b, c in waves)
    colours = picture[..., None] * rng.uniform(10, 30, 3) + rng.uniform(60, 190, 3)
    noisy = colours + rng.normal(0, 8, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def resident(key: str) -> int:
    """Resident memory of this process in bytes, now ("VmRSS:") or at its highest ("VmHWM:")."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


def matrix_rate(side: int = 2048, *, repeats: int = 8) -> dict[str, float]:
    """GFLOP/s of float32 matrix products, by library: what a forward pass can hope for."""
    import jax
    import jax.numpy as jnp
    import torch

    a = np.random.default_rng(0).standard_normal((side, side), np.float32)
    ours, theirs, product = jnp.asarray(a), torch.tensor(a), jax.jit(jnp.matmul)
    seconds = alternate(
        {
            "jax": lambda: [product(ours, ours).block_until_ready() for _ in range(repeats)],
            "torch": lambda: [theirs @ theirs for _ in range(repeats)],
        },
        rounds=5,
    )
    return {name: 2 * side**3 * repeats / time / 1e9 for name, time in seconds.items()}


def accelerator_rate(dtype: Any) -> float:
    """GFLOP/s of a large matrix product of JAX's."""
    import jax
    import jax.numpy as jnp

    square, product = jnp.ones((8192, 8192), dtype), jax.jit(jnp.matmul)
    sides = {"product": lambda: product(square, square).block_until_ready()}
    return 2 * len(square) ** 3 / alternate(sides, 9)["product"] / 1e9


def use_all_cores() -> Any:
    """torch, which the tests hold to one thread, on every core, as OpenCLIP's users have it."""
    from oracle import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    return torch
