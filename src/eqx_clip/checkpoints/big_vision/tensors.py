"""The names that big_vision gives the arrays of a SigLIP: flax's, with slashes."""

from typing import Any

import numpy as np

from ..._clip import CLIP, CLIPConfig
from ...towers.text import TextTransformer
from ...towers.timm_vit import TimmViT
from ..rows.plain import Edit, Edits, PlainTensors
from ..rows.positions import resize_image_positions, resize_text_positions
from ..rows.row import (
    Table,
    channels_last,
    from_heads,
    nested,
    tensor,
    transposed,
    with_axis,
    with_heads,
)
from .layers import LayerTensors


_ROOT = "params/"  # of whole training states, beside the optimizer's
_ATTENTION, _MLP = "MultiHeadDotProductAttention_0/", "MlpBlock_0/"


def _norm(ours: str, theirs: str) -> Table:
    return {f"{ours}.weight": tensor(f"{theirs}/scale"), f"{ours}.bias": tensor(f"{theirs}/bias")}


def _linear(ours: str, theirs: str) -> Table:
    return {
        f"{ours}.weight": transposed(f"{theirs}/kernel"),
        f"{ours}.bias": tensor(f"{theirs}/bias"),
    }


def _into_heads(ours: str, *theirs: str, heads: int) -> Table:
    names = [f"{_ATTENTION}{name}" for name in theirs]
    return {
        f"{ours}.weight": with_heads(*(f"{name}/kernel" for name in names), heads=heads),
        f"{ours}.bias": with_heads(*(f"{name}/bias" for name in names), heads=heads),
    }


def _out_of_heads(ours: str, heads: int) -> Table:
    return {
        f"{ours}.weight": from_heads(f"{_ATTENTION}out/kernel", heads),
        f"{ours}.bias": tensor(f"{_ATTENTION}out/bias"),
    }


def _mlp(ours: str) -> Table:
    return {**_linear(f"{ours}.up", f"{_MLP}Dense_0"), **_linear(f"{ours}.down", f"{_MLP}Dense_1")}


def _blocks(heads: int) -> Table:
    block = {
        **_norm("ln_1", "LayerNorm_0"),
        **_into_heads("attn.qkv", "query", "key", "value", heads=heads),
        **_out_of_heads("attn.out", heads),
        **_norm("ln_2", "LayerNorm_1"),
        **_mlp("mlp"),
    }
    return nested(block, "stack.block.", "encoderblock_{i}/")


def _head(heads: int) -> Table:
    return {
        "latent": with_axis("probe"),
        **_into_heads("q", "query", heads=heads),
        **_into_heads("kv", "key", "value", heads=heads),
        **_out_of_heads("proj", heads),
        **_norm("norm", "LayerNorm_0"),
        **_mlp("mlp"),
    }


def _image(heads: int) -> Table:
    return {
        "patch.weight": channels_last("embedding/kernel"),
        "patch.bias": tensor("embedding/bias"),
        "positional_embedding": with_axis("pos_embedding"),
        **nested(_blocks(heads), "", "Transformer/"),
        **_norm("ln_post", "Transformer/encoder_norm"),
        **nested(_head(heads), "map_head.", "MAPHead_0/"),
    }


def _text(heads: int) -> Table:
    return {
        "token_embedding": tensor("Embed_0/embedding"),
        "positional_embedding": with_axis("pos_embedding"),
        **nested(_blocks(heads), "", "Encoder_0/"),
        **_norm("ln_final", "Encoder_0/encoder_norm"),
        "proj": tensor("head/kernel"),
        "proj_bias": tensor("head/bias"),
    }


def table_of(model: CLIP) -> Table:
    """big_vision's names for (at least) every leaf of a SigLIP.

    Raises `ValueError` for another model. Source: big_vision's `models/proj/image_text/two_towers`,
    `models/vit` and `models/proj/image_text/text_transformer`.
    """
    image, text = model.image, model.text
    if not (isinstance(image, TimmViT) and isinstance(text, TextTransformer)):
        raise ValueError(
            "Of big_vision's models those of SigLIP and SigLIP 2 are read, of a vision transformer "
            "that pools by attention and a text transformer; this model has a "
            f"{type(image).__name__} and a {type(text).__name__}."
        )
    return {
        **nested(_image(image.config.num_heads), "image.", "img/"),
        **nested(_text(text.config.num_heads), "text.", "txt/"),
        "logit_scale": with_axis("t"),
        "logit_bias": with_axis("b"),
    }


def plain_tensors(tensors: Any, edits: Edits) -> PlainTensors:
    """A SigLIP's arrays by the names of their layers, whichever way the layers are stored.

    Without the root `params/`, if it is there, and then without what stands beside it: a training
    state holds the optimizer's arrays, too. Raises `ValueError` for a name twice.
    """
    root = _ROOT if any(name.startswith(_ROOT) for name in tensors) else ""
    layers = LayerTensors(tensors)
    names = {name.removeprefix(root): name for name in layers if name.startswith(root)}
    return PlainTensors(layers, names, edits)


def positions(old: CLIPConfig, new: CLIPConfig) -> Edits:
    """What makes the positions of the first configuration fit the second."""

    def image(x: np.ndarray) -> np.ndarray:
        grids: Any = (old.image, new.image)
        return resize_image_positions(x, *(config.grid for config in grids), class_tokens=0)

    def text(x: np.ndarray) -> np.ndarray:
        return resize_text_positions(x, new.text.context_length)

    return {"img/pos_embedding": _without_axis(image), "txt/pos_embedding": _without_axis(text)}


def _without_axis(edit: Edit) -> Edit:
    """`edit` inside an axis of one; an array of other axes stays, for the comparison of shapes."""
    return lambda x: edit(x[0])[None] if x.ndim == 3 else x
