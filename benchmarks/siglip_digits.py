"""Does a small SigLIP, trained here, know digits that it never saw?

    python benchmarks/siglip_digits.py

The data, batches and prompts are those of `examples/demo.py`; the towers are SigLIP's, of about the
demo's sizes: timm's vision transformer that pools by attention, a text tower that attends both ways
and reads its last position, and the sigmoid loss with the paper's first temperature and bias. The
table has the zero-shot accuracy on digits held out, for several seeds, which decide the split, the
model, the order and the crops.
"""

import math
import sys
import tempfile
from pathlib import Path

import common
import jax
import numpy as np
from tqdm import tqdm

import eqx_clip
from eqx_clip import train


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import demo


STEPS = 3000
CONFIG = eqx_clip.CLIPConfig(
    image=eqx_clip.TimmViTConfig(image_size=16, patch_size=4, width=64, depth=3, num_heads=4),
    text=eqx_clip.TextConfig(
        context_length=16,
        width=64,
        depth=2,
        num_heads=4,
        embed_dim=64,
        causal=False,
        pooling="last",
        projection="linear",
    ),
    preprocess=eqx_clip.Preprocess(image_size=16, mean=0.5, std=0.5, resize_mode="squash"),
    tokenizer=eqx_clip.Tokenizer(16),
    init_logit_scale=math.log(10),
    init_logit_bias=-10.0,
)


def learn(folder: Path, seed: int) -> float:
    """The accuracy on digits held out, in percent."""
    demo.write_data(folder, seed)
    schedule = train.cosine_schedule(1e-3, total_steps=STEPS, warmup_steps=STEPS // 20)
    optimizer = train.adamw(schedule, b2=0.95)
    state = train.init_state(eqx_clip.create(CONFIG, key=jax.random.key(seed)), optimizer)
    train_step = train.make_train_step(optimizer, loss="siglip")
    data = demo.batches(folder, state.model, np.random.default_rng(seed))
    progress = tqdm(range(STEPS), desc=f"seed {seed}", mininterval=5)
    for step in progress:
        state, metrics = train_step(state, next(data))
        if step % 100 == 0:
            progress.set_postfix(loss=f"{float(metrics['loss']):.2f}", refresh=False)
    rows = demo.read_csv(folder / "held_out.csv")
    answers = demo.classify(state.model, [folder / row["image_path"] for row in rows]).argmax(1)
    return 100 * float(np.mean(answers == [int(row["digit"]) for row in rows]))


def main(seeds: int, path: Path | None) -> None:
    rows: list[common.Row] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"seed": seed, "accuracy, %": learn(Path(folder), seed)})
    common.report(f"SigLIP, {STEPS} steps of {demo.BATCH_SIZE}", rows, path)


if __name__ == "__main__":
    arguments = common.parser(__doc__, rounds=3).parse_args()
    main(arguments.rounds, arguments.json)
