"""big_vision's npz files of small SigLIPs, all arrays random."""

import numpy as np

from eqx_clip.zoo import architectures


def register(monkeypatch, name, config):
    """A small model by name, for one test."""
    monkeypatch.setitem(architectures.MODELS, name, config)
    key = architectures.normalized(name)
    monkeypatch.setitem(architectures._BY_NAME, key, architectures.Alias(name))


def shapes_of(config):
    """The arrays of a SigLIP by big_vision's names, written down from its modules of flax."""
    image, text = config.image, config.text
    width, patch = image.width, image.patch_size
    rows, columns = image.grid
    shapes = {
        "img/embedding/kernel": (patch, patch, 3, width),
        "img/embedding/bias": (width,),
        "img/pos_embedding": (1, rows * columns, width),
        **_blocks("img/Transformer/", image),
        **_norm("img/Transformer/encoder_norm/", width),
        "img/MAPHead_0/probe": (1, 1, width),
        **_attention("img/MAPHead_0/", width, image.num_heads),
        **_norm("img/MAPHead_0/LayerNorm_0/", width),
        **_mlp("img/MAPHead_0/", width, int(width * image.mlp_ratio)),
        "txt/Embed_0/embedding": (text.vocab_size, text.width),
        "txt/pos_embedding": (1, text.context_length, text.width),
        **_blocks("txt/Encoder_0/", text),
        **_norm("txt/Encoder_0/encoder_norm/", text.width),
        "t": (1,),
        "b": (1,),
    }
    if text.projection == "linear":
        shapes |= {"txt/head/kernel": (text.width, width), "txt/head/bias": (width,)}
    return shapes


def _blocks(prefix, config):
    shapes = {}
    for i in range(config.depth):
        block, width = f"{prefix}encoderblock_{i}/", config.width
        shapes |= _attention(block, width, config.num_heads)
        shapes |= _mlp(block, width, int(width * config.mlp_ratio))
        shapes |= {**_norm(f"{block}LayerNorm_0/", width), **_norm(f"{block}LayerNorm_1/", width)}
    return shapes


def _attention(prefix, width, heads):
    prefix, size = f"{prefix}MultiHeadDotProductAttention_0/", width // heads
    names = ("query", "key", "value")
    return {
        **{f"{prefix}{name}/kernel": (width, heads, size) for name in names},
        **{f"{prefix}{name}/bias": (heads, size) for name in names},
        f"{prefix}out/kernel": (heads, size, width),
        f"{prefix}out/bias": (width,),
    }


def _norm(prefix, width):
    return {f"{prefix}scale": (width,), f"{prefix}bias": (width,)}


def _mlp(prefix, width, hidden):
    return {
        f"{prefix}MlpBlock_0/Dense_0/kernel": (width, hidden),
        f"{prefix}MlpBlock_0/Dense_0/bias": (hidden,),
        f"{prefix}MlpBlock_0/Dense_1/kernel": (hidden, width),
        f"{prefix}MlpBlock_0/Dense_1/bias": (width,),
    }


def arrays_of(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = shapes_of(config)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def stacked(arrays):
    """The same arrays as of a scanned model, whose layers are an axis in front."""
    layers = {}
    for name, array in arrays.items():
        head, found, tail = name.partition("/encoderblock_")
        key = f"{head}/encoderblock/{tail.partition('/')[2]}" if found else name
        layers.setdefault(key, []).append(array)
    return {key: np.stack(x) if "/encoderblock/" in key else x[0] for key, x in layers.items()}


def rooted(arrays):
    return {f"params/{name}": array for name, array in arrays.items()}
