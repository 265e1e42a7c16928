"""How fast are `encode_image` and `encode_text`, compiled, against OpenCLIP's on this machine?

    python benchmarks/encode.py
    python benchmarks/encode.py --models convnext-base --batch 8 --no-compile

The same random weights on both sides, float32 on a CPU. OpenCLIP runs eagerly, and through
`torch.compile` unless `--no-compile`. On a GPU ours runs in float32 and bfloat16, without OpenCLIP.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_clip
from eqx_clip.train._flops import positions, tower_flops


@eqx.filter_jit
def encode_images(model: eqx_clip.CLIP, images: jax.Array) -> jax.Array:
    return jax.vmap(model.encode_image)(images)


@eqx.filter_jit
def encode_texts(model: eqx_clip.CLIP, tokens: jax.Array) -> jax.Array:
    return jax.vmap(model.encode_text)(tokens)


def gigaflops(model: eqx_clip.CLIP, what: str) -> float:
    """Of the products of one example, all blocks whole, as OpenCLIP computes them."""
    tower = model.image if what == "encode_image" else model.text
    return tower_flops(tower, positions(tower, model)) / 1e9


def on_cpu(name: str, batch: int, rounds: int, *, compiled: bool) -> list[common.Row]:
    from models import oracle_config, oracle_model, save_oracle

    torch = common.use_all_cores()
    oracle = oracle_model(oracle_config(name))
    with tempfile.TemporaryDirectory() as folder:
        model = eqx_clip.load(name, save_oracle(oracle, Path(folder) / "weights.safetensors"))
    images = np.random.default_rng(0).standard_normal(
        (batch, 3, model.preprocess.height, model.preprocess.width), np.float32
    )
    tokens = model.tokenize(["a photo of a dog that sleeps on the sofa of a friend"] * batch)
    work = {
        "encode_image": (encode_images, jnp.asarray(images), oracle.encode_image, images),
        "encode_text": (encode_texts, jnp.asarray(tokens), oracle.encode_text, tokens),
    }
    rate = common.matrix_rate()
    rows = []
    for what, (ours, inputs, theirs, arrays) in work.items():
        tensor = torch.tensor(arrays)
        sides: dict[str, Callable[[], Any]] = {
            "eqx_clip": functools.partial(_wait_for, ours, model, inputs),
            "OpenCLIP": lambda theirs=theirs, tensor=tensor: theirs(tensor, normalize=True),
        }
        if compiled:
            faster = torch.compile(theirs)
            sides["compiled"] = lambda faster=faster, tensor=tensor: faster(tensor, normalize=True)
        seconds = common.alternate(sides, rounds, warmups=2)
        row: common.Row = {"model": name, "what": what, "batch": batch}
        row |= {f"{side}, /s": batch / time for side, time in seconds.items()}
        for side in list(seconds)[1:]:
            row[f"ratio to {side}"] = seconds[side] / seconds["eqx_clip"]
        flops = batch * gigaflops(model, what)
        row["share of matrix rate"] = flops / seconds["eqx_clip"] / rate["jax"]
        row |= {"matrix rate jax, GFLOP/s": rate["jax"], "torch": rate["torch"]}
        rows.append(row)
    return rows


def on_accelerator(name: str, batch: int, rounds: int, dtype: Any) -> list[common.Row]:
    model = eqx_clip.create(name, key=jax.random.key(0), dtype=dtype)
    square, product = jnp.ones((8192, 8192), dtype), jax.jit(jnp.matmul)
    work = {
        "encode_image": (
            encode_images,
            jnp.ones((batch, 3, model.preprocess.height, model.preprocess.width)),
        ),
        "encode_text": (encode_texts, jnp.asarray(model.tokenize(["a photo of a dog"] * batch))),
    }
    sides: dict[str, Callable[[], Any]] = {
        what: functools.partial(_wait_for, function, model, inputs)
        for what, (function, inputs) in work.items()
    }
    sides["product"] = functools.partial(_wait_for, product, square, square)
    seconds = common.alternate(sides, rounds, warmups=2)
    rate = 2 * len(square) ** 3 / seconds["product"] / 1e12
    rows = []
    for what in work:
        done = batch * gigaflops(model, what) / 1e3 / seconds[what]
        row: common.Row = {"model": name, "what": what, "dtype": jnp.dtype(dtype).name}
        row |= {"batch": batch, "eqx_clip, /s": batch / seconds[what]}
        rows.append(row | {"matrix rate, TFLOP/s": rate, "share of matrix rate": done / rate})
    return rows


def _wait_for(function: Callable, *arguments: Any) -> None:
    function(*arguments).block_until_ready()


def main() -> None:
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument("--models", nargs="+", default=["vit-base-patch32"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--no-compile", action="store_true", help="OpenCLIP runs eagerly only")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        if jax.default_backend() == "cpu":
            compiled = not arguments.no_compile
            rows += on_cpu(name, arguments.batch, arguments.rounds, compiled=compiled)
        else:
            for dtype in (jnp.float32, jnp.bfloat16):
                rows += on_accelerator(name, arguments.batch, arguments.rounds, dtype)
    common.report("Encoding", rows, arguments.json)


if __name__ == "__main__":
    main()
