"""transformers' SigLIP, and SigLIP 2 of images of one size."""

from collections.abc import Mapping
from typing import Any

from ..._checks import as_count, as_positive, short_repr
from ..._clip import CLIP
from ...tokenizers.json_file import JSONTokenizer
from ...towers.text import TextConfig
from ...towers.timm_vit import TimmViTConfig
from ..rows.row import Table, part_of, renamed, tensor, transposed, with_axis
from .naming import Naming
from .options import (
    Activations,
    check_options,
    part,
    read_image,
    read_text,
    read_transformer,
    write_image,
    write_text,
    write_transformer,
)
from .tensors import TABLE


# What transformers takes where a configuration says nothing: the two parts of `SiglipConfig`.
_SHARED = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_TEXT_DEFAULTS = {
    **_SHARED,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": None,  # as wide as the tower
}
_VISION_DEFAULTS = {
    **_SHARED,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
_ACTIVATIONS: Activations = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_INIT_LOGIT_BIAS = -10  # the paper's
_TEXT_TOWER: Mapping[str, Any] = {"causal": False, "pooling": "last", "projection": "linear"}

_HEAD = "vision_model.head."
_TABLE: Table = {
    **TABLE,
    "logit_scale": with_axis("logit_scale"),
    "logit_bias": with_axis("logit_bias"),
    "text.proj": transposed("text_model.head.weight"),
    "text.proj_bias": tensor("text_model.head.bias"),
    "image.map_head.latent": with_axis(f"{_HEAD}probe"),
    # Query, key and value are one tensor there, and query and the rest two leaves here.
    **{
        f"image.map_head.{leaf}.{kind}": part_of(f"{_HEAD}attention.in_proj_{kind}", *thirds, 3)
        for leaf, thirds in {"q": (0, 1), "kv": (1, 3)}.items()
        for kind in ("weight", "bias")
    },
    **renamed(
        {
            "image.patch.bias": "vision_model.embeddings.patch_embedding.bias",
            "image.map_head.proj.weight": f"{_HEAD}attention.out_proj.weight",
            "image.map_head.proj.bias": f"{_HEAD}attention.out_proj.bias",
            "image.map_head.norm.weight": f"{_HEAD}layernorm.weight",
            "image.map_head.norm.bias": f"{_HEAD}layernorm.bias",
            "image.map_head.mlp.up.weight": f"{_HEAD}mlp.fc1.weight",
            "image.map_head.mlp.up.bias": f"{_HEAD}mlp.fc1.bias",
            "image.map_head.mlp.down.weight": f"{_HEAD}mlp.fc2.weight",
            "image.map_head.mlp.down.bias": f"{_HEAD}mlp.fc2.bias",
        }
    ),
}


def _read(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    text = part(config, _TEXT_DEFAULTS, "text_config")
    vision = part(config, _VISION_DEFAULTS, "vision_config")
    if vision["vision_use_head"] is not True:
        raise ValueError(
            f"`vision_use_head={short_repr(vision['vision_use_head'])}` in `vision_config` is not "
            "supported: without the head that pools its patches an image has no feature."
        )
    image = TimmViTConfig(**read_image(vision), **_transformer(vision, "vision_config"))
    size = text["projection_size"]
    embed_dim = as_count("projection_size", text["hidden_size"] if size is None else size)
    if embed_dim != image.embed_dim:
        raise ValueError(
            f"`projection_size={embed_dim}` in `text_config` must be the `hidden_size` of "
            f"`vision_config`, {image.embed_dim}, which is how long features of images are."
        )
    return {
        "image": image,
        "text": TextConfig(
            embed_dim=embed_dim,
            **read_text(text),
            **_TEXT_TOWER,
            **_transformer(text, "text_config"),
        ),
        # Texts are cleaned as by OpenCLIP, of SigLIP 2, too.
        "tokenizer": JSONTokenizer(config.get("_name_or_path") or source, clean="canonicalize"),
        "init_logit_bias": _INIT_LOGIT_BIAS,
    }


def _transformer(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "norm_eps": as_positive("layer_norm_eps", options["layer_norm_eps"]),
        **read_transformer(options, name, _ACTIVATIONS),
    }


def _write(model: CLIP) -> dict[str, Any]:
    image: Any = model.image
    text: Any = model.text
    if model.logit_bias is None:
        raise ValueError("transformers' SigLIP has a `logit_bias`; this model has none.")
    if not isinstance(model.tokenizer, JSONTokenizer):
        raise ValueError(
            "transformers' SigLIP reads the ids of a tokenizer of files; this model's is "
            f"{model.tokenizer}."
        )
    check_options(text.config, _TEXT_TOWER)
    return {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        # Where the tokenizer is from; transformers puts the folder's own name in its place.
        "_name_or_path": model.tokenizer.name,
        "text_config": {
            "model_type": "siglip_text_model",
            **write_text(text.config),
            "projection_size": model.embed_dim,
            "layer_norm_eps": text.config.norm_eps,
            **write_transformer(text.config, _ACTIVATIONS),
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "vision_use_head": True,
            "layer_norm_eps": image.config.norm_eps,
            **write_image(image.config),
            **write_transformer(image.config, _ACTIVATIONS),
        },
    }


NAMING = Naming(
    model_type="siglip",
    image=TimmViTConfig,
    text=TextConfig,
    image_processor="SiglipImageProcessor",
    read=_read,
    write=_write,
    table=_TABLE,
    class_tokens=0,
)
