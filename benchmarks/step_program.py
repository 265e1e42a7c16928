"""How long does a training step compile, and how much memory does it hold, before it is run?

    python benchmarks/step_program.py
    python benchmarks/step_program.py --model vit-base-patch16 --batch 512

Two tables, of programs that are compiled for this machine and not run:

- Seconds to trace and to compile the step of 12 + 12 and of 24 + 24 blocks, of the first model's
  widths. Stacks are scanned, so that depth should cost nothing.
- Temporary memory of a step, beside state and batch, with a batch in so many parts (`accumulate`):
  the loss is always that of the whole batch. The gradients, as large as the parameters, are part of
  it in every row.
"""

import dataclasses
import time
from typing import Any

import common
import equinox as eqx
import jax
import numpy as np
from tpu import GIB, abstract_inputs

import eqx_clip
from eqx_clip import sharding, train
from eqx_clip.zoo.architectures import model_config


DEPTHS, PARTS, DEVICE = (12, 24), (1, 2, 4, 8, 16), jax.devices()[:1]


def shapes(config: eqx_clip.CLIPConfig, optimizer: Any, size: int) -> tuple[Any, Any]:
    """State and batch as shapes alone, on one device."""
    model = eqx.filter_eval_shape(eqx_clip.create, config, key=jax.random.key(0))
    return abstract_inputs(model, optimizer, sharding.make_mesh(1, 1, devices=DEVICE), size)


def with_depth(config: eqx_clip.CLIPConfig, depth: int) -> eqx_clip.CLIPConfig:
    towers = {
        name: dataclasses.replace(getattr(config, name), depth=depth) for name in ("image", "text")
    }
    return dataclasses.replace(config, **towers)


def compile_times(name: str, size: int, rounds: int) -> list[common.Row]:
    optimizer = train.adamw(1e-3)
    configs = {depth: with_depth(model_config(name), depth) for depth in DEPTHS}
    taken: dict[int, list[tuple[float, float]]] = {depth: [] for depth in DEPTHS}
    for _ in range(rounds):
        for depth, config in configs.items():
            arguments = shapes(config, optimizer, size)
            jax.clear_caches()
            start = time.perf_counter()
            lowered = train.make_train_step(optimizer).lower(*arguments)
            traced = time.perf_counter()
            lowered.compile()
            taken[depth].append((traced - start, time.perf_counter() - traced))
    rows = []
    for depth, times in taken.items():
        trace, build = np.median(times, axis=0)
        row = {"blocks": f"{depth} + {depth}", "trace, s": trace, "compile, s": build}
        rows.append({**row, "both, s": trace + build})
    for row in rows:
        row["of the first"] = row["both, s"] / rows[0]["both, s"]
    return rows


def memory(name: str, size: int) -> list[common.Row]:
    optimizer, rows = train.adamw(1e-3), []
    state, batch = shapes(model_config(name), optimizer, size)
    for remat in ("none", "full"):
        whole = None
        for parts in PARTS:
            step = train.make_train_step(optimizer, accumulate=parts, remat=remat)
            found = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
            whole = whole or found
            row = {"batch": size, "remat": remat, "parts": parts, "GiB": found / GIB}
            rows.append({**row, "of the whole": found / whole})
    return rows


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--model", default="vit-base-patch32")
    parser.add_argument("--batch", type=int, default=1024, help="for the memory (%(default)s)")
    arguments = parser.parse_args()
    times = compile_times(arguments.model, 16, arguments.rounds)
    common.report(f"Compiling the step, {arguments.model}", times, None)
    found = memory(arguments.model, arguments.batch)
    common.report(f"Temporary memory, {arguments.model}", found, None)
    if arguments.json:
        common.report("Program of a step", [*times, *found], arguments.json)


if __name__ == "__main__":
    main()
