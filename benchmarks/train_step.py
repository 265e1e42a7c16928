"""How fast is a training step, and in how much memory, against OpenCLIP's on this machine?

    python benchmarks/train_step.py
    python benchmarks/train_step.py --models vit-base-patch16 --batch 8 --rounds 5

A step is forward, backward, clip loss and AdamW in OpenCLIP's two parameter groups, from the same
random weights on both sides; the losses of three steps are compared first. On a CPU in float32,
OpenCLIP eager; on a GPU in bfloat16, OpenCLIP compiled, with autocast. Two kinds of captions:

- 77 tokens: none is cut.
- natural: 2 tokens more than a lognormal number of median 12 and sigma 0.5, at most 77; their
  histogram is printed. Ours cuts a batch to 16, 24, ... 48 or 77 tokens, as `train.prefetch` does,
  which is exact: attention is causal and the feature is read at the end of text. OpenCLIP always
  computes 77.

The share of the matrix rate counts three forward passes of what ours is given, all blocks whole.
Peaks of resident memory are above the imports, of a new process for each side that takes three
steps; on a GPU they are not measured.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from encode import ON_CPU, gigaflops
from start import save_weights

import eqx_clip
from eqx_clip import train
from eqx_clip.tokenizers.text_lengths import text_length


Batch = dict[str, np.ndarray]
Step = Callable[[Batch], float]  # one step, which gives its loss

CONTEXT, START, END = 77, 49406, 49407
RATE, BETAS, EPS, WEIGHT_DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.2


def our_step(name: str, weights: Path) -> Step:
    optimizer = train.adamw(RATE, b1=BETAS[0], b2=BETAS[1], eps=EPS, weight_decay=WEIGHT_DECAY)
    state = train.init_state(eqx_clip.load(name, weights), optimizer)
    compiled = train.make_train_step(optimizer, dtype=None if ON_CPU else jnp.bfloat16)

    def step(batch: Batch) -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return lambda batch: step({**batch, "tokens": cut(batch["tokens"])})


def their_step(name: str, weights: Path) -> Step:
    """The step of `open_clip_train.train`."""
    torch = common.use_all_cores()
    from models import OPEN_CLIP_NAMES
    from oracle import open_clip

    torch.set_grad_enabled(True)
    device = torch.device("cpu" if ON_CPU else "cuda")
    model = open_clip.create_model(OPEN_CLIP_NAMES[name], pretrained=str(weights), device=device)
    model.train()
    groups = {0.0: [], WEIGHT_DECAY: []}
    for key, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or any(part in key for part in ("ln", "bias", "logit_scale"))
        groups[0.0 if plain else WEIGHT_DECAY].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for decay, params in groups.items()],
        **{"lr": RATE, "betas": BETAS, "eps": EPS},
    )
    forward = model if ON_CPU else torch.compile(model)
    clip_loss = open_clip.ClipLoss()

    def step(batch: Batch) -> float:
        images, tokens = (torch.tensor(batch[key]).to(device) for key in ("image", "tokens"))
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=not ON_CPU):
            loss = clip_loss(*forward(images, tokens.long())[:3])
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return loss.item()

    return step


STEPS = {"eqx_clip": our_step, "OpenCLIP": their_step}


def draw_lengths(captions: str, shape: tuple[int, int]) -> np.ndarray:
    """How many tokens each caption has, (batches, batch)."""
    if captions == "77 tokens":
        return np.full(shape, CONTEXT)
    words = np.random.default_rng(1).lognormal(np.log(12), 0.5, shape)
    return np.minimum(2 + words.astype(int), CONTEXT)


def cut_to(lengths: np.ndarray) -> int:
    return text_length(int(lengths.max()), CONTEXT, training=True)


def cut(tokens: np.ndarray) -> np.ndarray:
    return tokens[:, : cut_to(tokens.argmax(-1) + 1)]


def show(lengths: np.ndarray) -> None:
    print(f"\nNatural captions: {lengths.size}, of {lengths.mean():.1f} tokens on average")
    for low in range(0, CONTEXT, 8):
        count = np.sum((low <= lengths) & (lengths < low + 8))
        print(
            f"{low:3d} to {low + 7:2d} tokens {count:5d} {'#' * round(80 * count / lengths.size)}"
        )
    of_batches, counts = np.unique([cut_to(row) for row in lengths], return_counts=True)
    for length, count in zip(of_batches, counts, strict=True):
        print(f"{count} batches are cut to {length} tokens")


def make_batches(model: eqx_clip.CLIP, lengths: np.ndarray) -> list[Batch]:
    """Random pixels and tokens, a batch for each row of lengths."""
    rng = np.random.default_rng(0)
    size = model.preprocess.height, model.preprocess.width
    batches = []
    for row in lengths:
        tokens = rng.integers(1, START, (len(row), CONTEXT), np.int32)
        tokens[:, 0] = START
        tokens[np.arange(CONTEXT) >= row[:, None]] = 0
        tokens[np.arange(len(row)), row - 1] = END
        images = rng.standard_normal((len(row), 3, *size), np.float32)
        batches.append({"image": images, "tokens": tokens})
    return batches


def skeleton(name: str) -> eqx_clip.CLIP:
    return eqx.filter_eval_shape(eqx_clip.create, name, key=jax.random.key(0))


def speed(name: str, captions: str, size: int, rounds: int, weights: Path) -> common.Row:
    model, lengths = skeleton(name), draw_lengths(captions, (max(rounds, 8), size))
    if captions == "natural":
        show(lengths)
    batches = make_batches(model, lengths)
    steps = {side: make(name, weights) for side, make in STEPS.items()}
    start = time.perf_counter()
    ours = [steps["eqx_clip"](batches[0])]
    first_step = time.perf_counter() - start
    ours += [steps["eqx_clip"](batch) for batch in batches[1:3]]
    theirs = [steps["OpenCLIP"](batch) for batch in batches[:3]]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4 if ON_CPU else 1e-2)
    for batch in {cut(batch["tokens"]).shape[1]: batch for batch in batches}.values():
        steps["eqx_clip"](batch)  # each length is compiled once

    turns = {side: itertools.cycle(batches) for side in steps}
    seconds = common.alternate(
        {side: lambda side=side: steps[side](next(turns[side])) for side in steps}, rounds
    )
    text = np.mean([model.text.flops(cut_to(row)) for row in lengths]) / 1e9
    forward = gigaflops(model, "encode_image") + text
    rate = common.matrix_rate()["jax"] if ON_CPU else common.accelerator_rate(jnp.bfloat16)
    return {
        **{"model": name, "captions": captions, "batch": size},
        **{f"{side}, pairs/s": size / time for side, time in seconds.items()},
        "ratio": seconds["OpenCLIP"] / seconds["eqx_clip"],
        "share of matrix rate": 3 * size * forward / seconds["eqx_clip"] / rate,
        "our first step, s": first_step,
    }


def peak_memory(name: str, side: str, size: int, weights: Path) -> float:
    """MB above the imports, of a new process."""
    arguments = ["--peak-of", side, "--models", name, "--batch", str(size)]
    command = [sys.executable, __file__, *arguments, "--weights", str(weights)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def take_three_steps(name: str, side: str, size: int, weights: Path) -> None:
    """What `peak_memory` starts: prints the peak."""
    if side == "OpenCLIP":
        common.use_all_cores()
    jnp.zeros(1).block_until_ready()
    bare = common.resident("VmRSS:")
    (batch,) = make_batches(skeleton(name), draw_lengths("77 tokens", (1, size)))
    step = STEPS[side](name, weights)
    for _ in range(3):
        step(batch)
    print((common.resident("VmHWM:") - bare) / 1e6)


def main() -> None:
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument("--models", nargs="+", default=["vit-base-patch32"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--peak-of", choices=STEPS, help="only takes three steps of this side")
    parser.add_argument("--weights", type=Path, help="what these steps begin with")
    arguments = parser.parse_args()
    if arguments.peak_of:
        take_three_steps(arguments.models[0], arguments.peak_of, arguments.batch, arguments.weights)
        return
    rows = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            weights = save_weights(name, Path(folder) / "weights.safetensors")
            for captions in ("77 tokens", "natural"):
                rows.append(speed(name, captions, arguments.batch, arguments.rounds, weights))
            if ON_CPU:
                peaks = {
                    f"{side}, peak MB": peak_memory(name, side, arguments.batch, weights)
                    for side in STEPS
                }
                ours, theirs = peaks.values()
                rows[-2] |= {**peaks, "of OpenCLIP's": ours / theirs}
    common.report("Training steps", rows, arguments.json)


if __name__ == "__main__":
    main()
