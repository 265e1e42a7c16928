"""Saved models, and what tests do to them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file


NANO = "vit-nano-patch32"  # the smallest registered model
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
VIT = {"patch_size": 8, "width": 8, "depth": 1, "num_heads": 1, "embed_dim": 8}
CONVNEXT = {"depths": (1, 1), "widths": (8, 8), "embed_dim": 8}
HUGE = 10**400  # beyond floats


def edit_config(folder, path, value):
    """Sets `a.b.c` in the configuration."""
    config = json.loads((folder / CONFIG).read_text())
    *parents, last = path.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    (folder / CONFIG).write_text(json.dumps(config))


def edit_tensors(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


def cast(model, *dtypes):
    """Every leaf cast to each of `dtypes` in turn, by NumPy: JAX compiles for each shape."""

    def cast_leaf(leaf):
        for dtype in dtypes:
            leaf = np.asarray(leaf).astype(jnp.dtype(dtype))
        return jnp.asarray(leaf)

    return jax.tree.map(cast_leaf, model)


def dtypes(model):
    return {leaf.dtype.name for leaf in jax.tree.leaves(model)}


def edit_json(path, **changes):
    """Sets options of a JSON file, of parts by `part__option`; None takes one away."""
    config = json.loads(path.read_text())
    for name, value in changes.items():
        *parts, last = name.split("__")
        section = config
        for part in parts:
            section = section[part]
        if value is None:
            del section[last]
        else:
            section[last] = value
    path.write_text(json.dumps(config))


def split_weights(folder):
    """Puts transformers' weights into two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"model-1-of-2.safetensors": {}, "model-2-of-2.safetensors": {}}
    names = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        file = list(parts)[number % 2]
        parts[file][name], names[name] = tensor, file
    for file, part in parts.items():
        save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )
