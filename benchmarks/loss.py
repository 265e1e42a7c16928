"""How do memory and time of the losses grow with the global batch?

    python benchmarks/loss.py

The gradient of each loss over 8 virtual devices of the CPU, float32 features of 512 numbers. Memory
is what the compiled program holds on each device beside its inputs and outputs, as XLA plans it:
nothing is run for it, and `n x B` says what one matrix of local by global logits would take. Time
is that of all 8 devices on this machine's cores: it compares losses, and is no speed of a device.
"""

import os


os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import functools
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from eqx_clip import sharding
from eqx_clip.losses.contrastive import clip_loss, siglip_loss


DEVICES, EMBED, MIB = 8, 512, 2**20
SIDES = [(loss, method) for loss in ("clip", "siglip") for method in ("ring", "gather")]


def gradient(loss: str, method: str, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """The compiled gradient by image features, text features, scale and, for SigLIP, bias."""
    rows, axes = PartitionSpec(mesh.axis_names), tuple(mesh.axis_names)
    scalars = 1 if loss == "clip" else 2
    of = functools.partial(
        clip_loss if loss == "clip" else siglip_loss, axis_name=axes, method=method
    )
    specs = (rows, rows, *[PartitionSpec()] * scalars)
    whole = jax.shard_map(of, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    placed = tuple(NamedSharding(mesh, spec) for spec in specs)
    by_all = tuple(range(len(specs)))
    return jax.jit(jax.grad(whole, by_all), in_shardings=placed, out_shardings=placed)


def temporary_mib(loss: str, method: str, mesh: jax.sharding.Mesh, batch: int) -> float:
    features = jax.ShapeDtypeStruct((batch, EMBED), jnp.float32)
    scalars = [jax.ShapeDtypeStruct((), jnp.float32)] * (1 if loss == "clip" else 2)
    compiled: Any = gradient(loss, method, mesh)
    lowered = compiled.lower(features, features, *scalars)
    return lowered.compile().memory_analysis().temp_size_in_bytes / MIB


def seconds(mesh: jax.sharding.Mesh, batch: int, rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((2, batch, EMBED), np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    image, text = (jax.device_put(x, rows) for x in (image, text))
    scalars = {"clip": (100.0,), "siglip": (10.0, -10.0)}

    def run(loss: str, method: str) -> Callable[[], Any]:
        compiled = gradient(loss, method, mesh)
        arrays = [jnp.asarray(x, jnp.float32) for x in scalars[loss]]
        return lambda: jax.block_until_ready(compiled(image, text, *arrays))

    return common.alternate({" ".join(side): run(*side) for side in SIDES}, rounds)


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[32768, 65536], metavar="BATCH")
    parser.add_argument("--time", type=int, default=8192, metavar="BATCH", help="0: no time")
    arguments = parser.parse_args()
    mesh = sharding.make_mesh()
    times = seconds(mesh, arguments.time, arguments.rounds) if arguments.time else {}
    rows = []
    for loss, method in SIDES:
        row: common.Row = {"loss": loss, "method": method}
        for batch in arguments.memory:
            row[f"MiB a device at {batch}"] = temporary_mib(loss, method, mesh, batch)
            row[f"n x B at {batch}"] = batch**2 / DEVICES * 4 / MIB
        if times:
            row[f"seconds at {arguments.time}"] = times[f"{loss} {method}"]
        rows.append(row)
    common.report("Gradient of the losses, 8 virtual devices", rows, arguments.json)


if __name__ == "__main__":
    main()
