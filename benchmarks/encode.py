"""How fast are `encode_image` and `encode_text`, compiled, against OpenCLIP's on this machine?

    pip install pydantic loguru && pip install --no-deps jaxonmodels    # another port, if wanted
    python benchmarks/encode.py
    python benchmarks/encode.py --models convnext-base --batch 8

The same random weights on both sides; those of other ports are their own. Float32 on a CPU; on a
GPU bfloat16 and float16, too. OpenCLIP runs eagerly, and through `torch.compile` unless
`--no-compile`; on a GPU it is left out where torch has none.
"""

import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_clip


ON_CPU = jax.default_backend() == "cpu"
METHODS = ("encode_image", "encode_text")
DTYPES = (jnp.float32,) if ON_CPU else (jnp.float32, jnp.bfloat16, jnp.float16)
JAXONMODELS = {
    "vit-base-patch32": "ViT-B/32",
    "vit-base-patch16": "ViT-B/16",
    "vit-large-patch14": "ViT-L/14",
}
Side = tuple[str, Callable[[], Any]]


@eqx.filter_jit
def encode_images(model: eqx_clip.CLIP, images: jax.Array) -> jax.Array:
    return jax.vmap(model.encode_image)(images)


@eqx.filter_jit
def encode_texts(model: eqx_clip.CLIP, tokens: jax.Array) -> jax.Array:
    return jax.vmap(model.encode_text)(tokens)


def gigaflops(model: eqx_clip.CLIP, what: str) -> float:
    """Of the products of one example, all blocks whole, as OpenCLIP computes them."""
    tower = model.image if what == "encode_image" else model.text
    return tower.flops() / 1e9


def rows_of(name: str, batch: int, rounds: int, dtype: Any, *, compiled: bool) -> list[common.Row]:
    from models import oracle_config, oracle_model, save_oracle

    torch = common.use_all_cores()
    oracle = oracle_model(oracle_config(name))
    with tempfile.TemporaryDirectory() as folder:
        weights = save_oracle(oracle, Path(folder) / "weights.safetensors")
        model = eqx_clip.load(name, weights, dtype=dtype)
    pixels = (batch, 3, model.preprocess.height, model.preprocess.width)
    images = np.random.default_rng(0).standard_normal(pixels, np.float32)
    tokens = model.tokenize(["a photo of a dog that sleeps on the sofa of a friend"] * batch)
    rates = common.matrix_rate() if ON_CPU else {"jax": common.accelerator_rate(dtype)}
    rows = []
    for what, array in zip(METHODS, (images, tokens), strict=True):
        encode = encode_images if what == "encode_image" else encode_texts
        ours = functools.partial(_wait_for, encode, model, jnp.asarray(array))
        sides: dict[str, Callable[[], Any]] = {"eqx_clip": ours}
        if ON_CPU or torch.cuda.is_available():
            sides |= dict(open_clip_sides(torch, oracle, what, array, dtype, compiled=compiled))
        sides |= dict(port_sides(name, what, array, dtype))
        seconds = common.alternate(sides, rounds, warmups=2)
        row: common.Row = {"model": name, "what": what, "dtype": jnp.dtype(dtype).name}
        row |= {"batch": batch, **{f"{side}, /s": batch / time for side, time in seconds.items()}}
        for side in list(seconds)[1:]:
            row[f"ratio to {side}"] = seconds[side] / seconds["eqx_clip"]
        done = batch * gigaflops(model, what) / seconds["eqx_clip"]
        row["share of matrix rate"] = done / rates["jax"]
        rows.append(row | {f"matrix rate {of}, GFLOP/s": rate for of, rate in rates.items()})
    return rows


def open_clip_sides(
    torch: Any, oracle: Any, what: str, array: np.ndarray, dtype: Any, *, compiled: bool
) -> Iterator[Side]:
    """OpenCLIP's model as its `precision="pure_..."` stores it."""
    device = "cpu" if ON_CPU else "cuda"
    oracle = oracle.to(device, getattr(torch, jnp.dtype(dtype).name))
    tensor = torch.tensor(array).to(device)
    if tensor.is_floating_point():
        tensor = tensor.to(oracle.logit_scale.dtype)

    def side(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> None:
            function(tensor, normalize=True)
            if not ON_CPU:
                torch.cuda.synchronize()

        return run

    yield "OpenCLIP", side(getattr(oracle, what))
    if compiled:
        yield "compiled", side(torch.compile(getattr(oracle, what)))


def port_sides(name: str, what: str, array: np.ndarray, dtype: Any) -> Iterator[Side]:
    """Another JAX port with CLIP that pip installs, where it is here and has the architecture."""
    if name not in JAXONMODELS or importlib.util.find_spec("jaxonmodels") is None:
        return
    from jaxonmodels.functions import build_attention_mask
    from jaxonmodels.models.clip import load_clip

    theirs, state = load_clip(JAXONMODELS[name], dtype=dtype)
    mask = build_attention_mask(77)

    @eqx.filter_jit
    def encode(theirs: Any, batch: jax.Array) -> jax.Array:
        def one(x: jax.Array) -> jax.Array:
            if what == "encode_text":
                return theirs.encode_text(x, mask)
            return theirs.encode_image(x, state)[0]

        features = jax.vmap(one)(batch)
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    yield "jaxonmodels", functools.partial(_wait_for, encode, theirs, jnp.asarray(array))


def _wait_for(function: Callable, *arguments: Any) -> None:
    function(*arguments).block_until_ready()


def main() -> None:
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument("--models", nargs="+", default=["vit-base-patch32"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--no-compile", action="store_true", help="OpenCLIP runs eagerly only")
    arguments = parser.parse_args()
    options: Any = {"compiled": not arguments.no_compile}
    rows = []
    for name in arguments.models:
        for dtype in DTYPES:
            rows += rows_of(name, arguments.batch, arguments.rounds, dtype, **options)
    common.report("Encoding", rows, arguments.json)


if __name__ == "__main__":
    main()
