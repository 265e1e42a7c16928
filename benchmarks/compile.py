"""How do trace and compile times of the forward pass grow with depth and width?

    python benchmarks/compile.py

No weights are made: programs are compiled from shapes. Image and text tower of one example each.
"""

import time

import common
import equinox as eqx
import jax
import jax.numpy as jnp

import eqx_clip


@jax.jit
def forward(model: eqx_clip.CLIP, image: jax.Array, tokens: jax.Array) -> jax.Array:
    return model.logits(model.encode_image(image), model.encode_text(tokens))


def measure(name: str) -> tuple[float, float]:
    """Seconds to trace and lower, and to compile."""
    model = eqx.filter_eval_shape(eqx_clip.create, name, key=jax.random.key(0))
    size = (3, model.preprocess.height, model.preprocess.width)
    image = jax.ShapeDtypeStruct(size, jnp.float32)
    tokens = jax.ShapeDtypeStruct((77,), jnp.int32)
    jax.clear_caches()
    start = time.perf_counter()
    lowered = forward.lower(model, image, tokens)
    traced = time.perf_counter()
    lowered.compile()
    return traced - start, time.perf_counter() - traced


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["vit-base-patch32", "vit-large-patch14", "vit-huge-patch14", "convnext-base"],
    )
    arguments = parser.parse_args()
    measured = {name: [] for name in arguments.models}
    for _ in range(arguments.rounds):
        for name, figures in measured.items():
            figures.append(measure(name))
    rows = []
    for name, figures in measured.items():
        trace, compile_ = (sorted(times)[len(times) // 2] for times in zip(*figures, strict=True))
        row: common.Row = {"model": name, "trace, s": trace, "compile, s": compile_}
        rows.append({**row, "to the first": (trace + compile_) / _total(rows, trace + compile_)})
    common.report("Trace and compile", rows, arguments.json)


def _total(rows: list[common.Row], default: float) -> float:
    return rows[0]["trace, s"] + rows[0]["compile, s"] if rows else default


if __name__ == "__main__":
    main()
