"""How much memory does a training step take on each device of a TPU, and how much does it compute?

    python -m venv tpu && tpu/bin/pip install '.[train]' libtpu
    tpu/bin/python benchmarks/tpu.py
    tpu/bin/python benchmarks/tpu.py --topologies v6e:4x8 --models vit-large-patch14 --batches 16384

Without a TPU: the compiler in libtpu compiles for a topology, a generation and the shape of its
slice, from shapes alone. Nothing is run, and nothing is said of speed. libtpu has an environment of
its own, since JAX takes it for a TPU wherever it finds it.
"""

import argparse
import functools
import itertools
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import common
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh
from tqdm import tqdm

import eqx_clip
from eqx_clip import sharding, train


GIB = 2**30


def devices_of(topology: str) -> Sequence[Any]:
    """The devices of a slice, which can be compiled for and nothing else."""
    # libtpu would look for the TPU of this machine, for one process, and ask Google's servers.
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    # A v4 chip's two cores are one device to JAX, as its successors' are, but not by default here.
    chip = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **chip).devices
    except Exception as error:
        raise SystemExit(
            f"No topology {topology!r}: {error}\nExpected such as v4:2x2x2, v5e:4x4, v6e:4x8, and "
            "libtpu in this environment: pip install libtpu"
        ) from error


def abstract_inputs(
    model: eqx_clip.CLIP, optimizer: Any, mesh: Mesh, batch: int
) -> tuple[train.TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """A train state and a batch as shapes that say where they lie."""
    state = eqx.filter_eval_shape(train.init_state, model, optimizer)
    state = jax.tree.map(_lying, state, sharding.shardings(state, mesh))
    rows = sharding.rows(mesh)
    size = (model.preprocess.height, model.preprocess.width)
    context = model.tokenizer.context_length
    return state, {
        "image": jax.ShapeDtypeStruct((batch, 3, *size), jnp.uint8, sharding=rows),
        "tokens": jax.ShapeDtypeStruct((batch, context), jnp.int32, sharding=rows),
    }


def _lying(leaf: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def measure(model: eqx_clip.CLIP, mesh: Mesh, batch: int, remat: Any) -> common.Row:
    """What one device holds when a step begins, at most, and beside its arguments."""
    optimizer = train.adamw(1e-3)
    step = train.make_train_step(optimizer, mesh, dtype=jnp.bfloat16, remat=remat)
    lowered = step.lower(*abstract_inputs(model, optimizer, mesh, batch))
    start = time.perf_counter()
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        return {"peak, GiB": needed(error), "fits": "no"}
    return {
        "arguments, GiB": memory.argument_size_in_bytes / GIB,
        "temporary, GiB": memory.temp_size_in_bytes / GIB,
        "peak, GiB": memory.peak_memory_in_bytes / GIB,
        "fits": "yes",
        "compile, s": time.perf_counter() - start,
    }


def needed(error: Exception) -> float:
    """GiB that the compiler says it cannot find; an error of another kind is raised again."""
    found = re.search(r"(?:Used |\()([\d.]+)([KMGT])(?: of |\) exceeds)", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or found is None:
        raise error
    return float(found[1]) * 2.0 ** {"K": -20, "M": -10, "G": 0, "T": 10}[found[2]]


def teraflops(model: eqx_clip.CLIP, batch: int) -> float:
    """Of the products of a step's towers: a forward pass, and twice that for its gradient.

    What `remat` computes again is not counted: the usual measure of model FLOPs.
    """
    return 3 * batch * train.forward_flops(model) / 1e12


def rows_of(arguments: argparse.Namespace) -> list[common.Row]:
    slices = {topology: devices_of(topology) for topology in arguments.topologies}
    cases = itertools.product(
        slices, arguments.models, arguments.batches, arguments.fsdp, arguments.remats
    )
    rows = []
    for topology, name, batch, fsdp, remat in tqdm(list(cases), unit="program"):
        mesh = sharding.make_mesh(fsdp=fsdp, devices=slices[topology])
        model = eqx.filter_eval_shape(eqx_clip.create, name, key=jax.random.key(0))
        row: common.Row = {"topology": topology, "model": name, "batch": batch}
        row |= {"data x fsdp": f"{mesh.shape['data']} x {fsdp}", "remat": remat}
        row |= measure(model, mesh, batch, remat)
        rows.append(row | {"TFLOP": teraflops(model, batch) / mesh.size})
    return rows


def main() -> None:
    parser = common.parser(__doc__)
    add = functools.partial(parser.add_argument, nargs="+")
    add("--topologies", default=["v3:4x4", "v4:2x2x2", "v5e:2x4"])
    add("--models", default=["vit-base-patch16", "vit-large-patch14"])
    add("--batches", type=int, default=[4096], help="global batch sizes")
    add("--fsdp", type=int, default=[1, 8], help="devices that share the parameters")
    add("--remats", default=["full", "none"])
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    common.report("Training step on a TPU, bfloat16", rows_of(arguments), arguments.json)


if __name__ == "__main__":
    main()
