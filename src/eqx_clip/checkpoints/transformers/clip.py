"""transformers' CLIP: towers such as OpenAI's ViTs have."""

from collections.abc import Mapping
from typing import Any

from ..._checks import as_count, short_repr
from ..._clip import CLIP, LOGIT_SCALE
from ...tokenizers.clip import Tokenizer
from ...towers.text import TextConfig
from ...towers.vit import ViTConfig
from ..rows.row import Table, renamed, transposed
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


# What transformers takes where a configuration says nothing: `CLIPConfig`, its two parts.
_DEFAULTS = {"projection_dim": 512, "logit_scale_init_value": LOGIT_SCALE}
_EPS = 1e-5
_SHARED = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": _EPS}
_TEXT_DEFAULTS = {
    **_SHARED,
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS = {
    **_SHARED,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
_ACTIVATIONS: Activations = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
_LEGACY_EOS = 2  # of files from before transformers read this number: it takes the highest id

_TABLE: Table = {
    **TABLE,
    **renamed(
        {
            "logit_scale": "logit_scale",
            "image.class_embedding": "vision_model.embeddings.class_embedding",
            "image.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # their spelling
            "image.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        }
    ),
    "image.proj": transposed("visual_projection.weight"),
    "text.proj": transposed("text_projection.weight"),
}


def _read(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    whole = {**_DEFAULTS, **config}
    # Older files hold a second part, which wins.
    text = part(config, _TEXT_DEFAULTS, "text_config", "text_config_dict")
    vision = part(config, _VISION_DEFAULTS, "vision_config", "vision_config_dict")
    embed_dim = as_count("projection_dim", whole["projection_dim"])
    return {
        "image": ViTConfig(
            embed_dim=embed_dim,
            **read_image(vision),
            **_transformer(vision, "vision_config"),
        ),
        "text": TextConfig(
            embed_dim=embed_dim,
            **read_text(text),
            **_pooling(text),
            **_transformer(text, "text_config"),
        ),
        "tokenizer": Tokenizer(),
        "init_logit_scale": whole["logit_scale_init_value"],
    }


def _transformer(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    eps = options["layer_norm_eps"]
    if eps != _EPS:
        raise ValueError(
            f"`layer_norm_eps={short_repr(eps)}` in `{name}` is not supported: it must be 1e-5."
        )
    return read_transformer(options, name, _ACTIVATIONS)


def _pooling(text: Mapping[str, Any]) -> dict[str, Any]:
    """Where the feature is read: at the first end of text.

    Where that is the highest id it is what OpenCLIP reads, in every row that has one, as all rows
    of a tokenizer have.
    """
    eos, vocab_size = text["eos_token_id"], as_count("vocab_size", text["vocab_size"])
    if eos in (_LEGACY_EOS, vocab_size - 1):
        return {"pooling": "highest_id"}
    return {"pooling": "first_id", "eos_id": eos}


def _write(model: CLIP) -> dict[str, Any]:
    image: Any = model.image
    text: Any = model.text
    if model.logit_bias is not None:
        raise ValueError("transformers' CLIP has no `logit_bias`; this model has one.")
    check_options(image.config, {"pooling": "class_token", "norm_pre": True})
    check_options(text.config, {"causal": True, "projection": "matrix", "norm_eps": _EPS})
    if text.config.pooling == "last" or text.config.eos_id == _LEGACY_EOS:
        raise ValueError(
            "transformers' CLIP reads the feature at the end of text, an id that is not 2, which "
            f"stands for the highest; this model's text tower is {text.config}."
        )
    shared = {"layer_norm_eps": _EPS, "projection_dim": model.embed_dim}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": LOGIT_SCALE,
        "text_config": {
            "model_type": "clip_text_model",
            **write_text(text.config),
            "eos_token_id": _LEGACY_EOS if text.config.eos_id is None else text.config.eos_id,
            "bos_token_id": text.config.vocab_size - 2,
            **write_transformer(text.config, _ACTIVATIONS),
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **write_image(image.config),
            **write_transformer(image.config, _ACTIVATIONS),
            **shared,
        },
    }


NAMING = Naming(
    model_type="clip",
    image=ViTConfig,
    text=TextConfig,
    image_processor="CLIPImageProcessor",
    read=_read,
    write=_write,
    table=_TABLE,
    class_tokens=1,
)
