"""What `load` makes of configurations that nobody should write, beside weights that are whole.

    python benchmarks/fuzz_configs.py --count 20000 --seed 0

Each configuration is a valid one with a few of its values replaced, taken away, moved or doubled.
It may load or be refused with a `ValueError`; the configuration of any other exception is printed.
At the end, how many of each there were, the slowest in seconds of CPU (what else runs on the
machine does not count), and the largest memory that any took above what the process held before.
"""

import argparse
import collections
import copy
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

import eqx_clip


CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "quick_gelu": False,
        "init_logit_scale": 2.0,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 64,
            "width": 16,
            "heads": 2,
            "layers": 2,
            "mlp_ratio": 2.0,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
        "size": 32,
    },
}
# Options of OpenCLIP's that the configuration does not have, and some that nobody has.
OPTIONS = (
    *("ls_init_value", "patch_dropout", "attentional_pool", "no_ln_pre", "pool_type", "qk_norm"),
    *("timm_model_name", "timm_pool", "timm_proj", "act_kwargs", "norm_kwargs", "block_type"),
    *("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "embed_cls"),
    *("init_logit_bias", "multimodal_cfg", "custom_text", "mode", "crop_pct", "", "\0", "é" * 99),
)


def main(count: int, seed: int) -> None:
    rng = random.Random(seed)
    results, slowest, largest = collections.Counter(), (0.0, ""), (0, "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = eqx_clip.create(CONFIG["model_cfg"], key=jax.random.key(0))
        eqx_clip.save(model, folder)
        path = folder / "open_clip_config.json"
        eqx_clip.load(folder)
        for i in range(count):
            text = mutate(rng)
            path.write_text(text)
            seconds, memory, result = measure(folder, text)
            results[result] += 1
            slowest = max(slowest, (seconds, text))
            largest = max(largest, (memory, text))
            if i % 1000 == 999:
                print(f"{i + 1:,}: {dict(results)}", flush=True)
    print(f"Slowest, {slowest[0]:.2f} s: {slowest[1][:2000]}")
    print(f"Largest, {largest[0] / 2**20:.0f} MiB: {largest[1][:2000]}")


def measure(folder: Path, text: str) -> tuple[float, int, str]:
    """Seconds of CPU, bytes of memory at the peak above those before, and what came of it."""
    before, start = reset_peak(), time.process_time()
    try:
        eqx_clip.load(folder)
        result = "loaded"
    except ValueError as error:
        result = "refused" if len(str(error)) < 3000 else "refused in too many words"
    except Exception as error:
        result = type(error).__name__
    if result not in ("loaded", "refused"):
        print(f"{result}: {text[:5000]}", flush=True)
    return time.process_time() - start, status("VmHWM") - before, result


def reset_peak() -> int:
    """Bytes of memory held now, from which the peak counts anew. Reads Linux's /proc."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmHWM")


def status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}.")


def mutate(rng: random.Random) -> str:
    config: Any = copy.deepcopy(CONFIG)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        section, key = place(config, rng)
        if isinstance(section, list):
            section[key] = value(rng)
            continue
        change = rng.random()
        if change < 0.75:
            section[key] = value(rng)
        elif change < 0.8:
            del section[key]
        elif change < 0.9:
            section[rng.choice(OPTIONS)] = value(rng)
        elif change < 0.95:
            section[f"{key}{rng.choice('s_ x')}"] = section.pop(key)
        else:  # the value of another place
            other, name = place(config, rng)
            section[key] = copy.deepcopy(other[name])
    text = json.dumps(config)
    if rng.random() < 0.02:  # broken off, or a byte changed
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("", chr(rng.randrange(1, 300)) + text[at + 1 :]))
    return text


def place(config: Any, rng: random.Random) -> tuple[Any, Any]:
    """A section or a list somewhere in the configuration, and a key or an index of it."""
    places = []

    def walk(section: Any) -> None:
        keys = list(section) if isinstance(section, dict) else range(len(section))
        for key in keys:
            places.append((section, key))
            if isinstance(section[key], dict | list):
                walk(section[key])

    walk(config)
    return rng.choice(places) if places else (config, "model_cfg")


def value(rng: random.Random) -> Any:
    """A value of any kind that JSON has: sizes near those of the weights, absurd ones, others."""
    kind = rng.random()
    if kind < 0.1:
        return [scalar(rng) for _ in range(rng.choice((0, 1, 2, 2, 3, 3, 4, 300)))]
    if kind < 0.15:
        return {rng.choice(OPTIONS): scalar(rng) for _ in range(rng.randrange(3))}
    if kind < 0.18:
        return nested(rng.choice((2, 100, 300)))
    return scalar(rng)


def scalar(rng: random.Random) -> Any:
    kinds = (
        lambda: rng.randrange(-2, 70),
        lambda: 2 ** rng.randrange(70) + rng.randrange(-1, 2),
        lambda: rng.choice((-1, 1)) * 10 ** rng.choice((5, 9, 12, 18, 19, 30, 308, 309, 400, 4000)),
        lambda: rng.choice((0.0, -0.0, 0.5, 1e-320, 1e-30, 1e30, 1e39, 1e308, -1e308)),
        lambda: rng.choice((float("nan"), float("inf"), float("-inf"))),
        lambda: rng.choice((None, True, False)),
        lambda: rng.choice(("", "768", "bicubic", "convnext_tiny", "gelu", "\ud800", "x" * 10**5)),
    )
    return rng.choice(kinds)()


def nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"width": value}
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.count, arguments.seed)
