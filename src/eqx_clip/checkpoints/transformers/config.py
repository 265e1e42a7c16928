"""transformers' `config.json` of a CLIP, read into our configurations and written back."""

import math
from collections.abc import Mapping
from typing import Any

from ..._checks import as_count, as_positive, short_repr
from ..._clip import CLIP, LOGIT_SCALE, CLIPConfig
from ..._types import Activation
from ...images.preprocess import Preprocess
from ...tokenizers.clip import Tokenizer
from ...towers.text import TextConfig, TextTransformer
from ...towers.vit import VisionTransformer, ViTConfig


# What transformers takes where a configuration says nothing: `CLIPConfig`, its two parts.
_DEFAULTS = {"projection_dim": 512, "logit_scale_init_value": LOGIT_SCALE}
_SHARED = {
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
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
_ACTIVATIONS: Mapping[str, Activation] = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
_LEGACY_EOS = 2  # of files from before transformers read this number: it takes the highest id


def config_from_transformers(config: Mapping[str, Any], preprocess: Preprocess) -> CLIPConfig:
    """The configuration that a `config.json` of a CLIP describes.

    Raises `ValueError` for another kind of model, and for what no tower here can reproduce.
    Source: transformers' `CLIPConfig`.
    """
    kind = config.get("model_type")
    if kind != "clip":
        raise ValueError(
            f"`model_type={short_repr(kind)}` is not supported: of transformers' models those of "
            "type 'clip' are read."
        )
    whole = {**_DEFAULTS, **config}
    text = _part(config, "text_config", _TEXT_DEFAULTS)
    vision = _part(config, "vision_config", _VISION_DEFAULTS)
    embed_dim = as_count("projection_dim", whole["projection_dim"])
    if vision["num_channels"] != 3:
        raise ValueError(f"`num_channels` must be 3; got {short_repr(vision['num_channels'])}.")
    image = ViTConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=embed_dim,
        **_transformer(vision, "vision_config"),
    )
    if image.image_size != preprocess.image_size:
        raise ValueError(
            f"The image processor gives images of size {preprocess.image_size}, and the vision "
            f"tower takes {image.image_size}: they do not belong together."
        )
    return CLIPConfig(
        image=image,
        text=TextConfig(
            context_length=text["max_position_embeddings"],
            vocab_size=text["vocab_size"],
            embed_dim=embed_dim,
            **_pooling(text),
            **_transformer(text, "text_config"),
        ),
        preprocess=preprocess,
        tokenizer=Tokenizer(),
        init_logit_scale=whole["logit_scale_init_value"],
    )


def _part(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the configuration; older files hold a second one, which wins."""
    parts = [config.get(key) or {} for key in (name, f"{name}_dict")]
    for part in parts:
        if not isinstance(part, Mapping):
            raise ValueError(f"`{name}` must be an object of options; it is {short_repr(part)}.")
    given = {key: value for part in parts for key, value in part.items() if value is not None}
    return {**defaults, **given}


def _transformer(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What both towers have."""
    activation, eps = options["hidden_act"], options["layer_norm_eps"]
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"`hidden_act={short_repr(activation)}` in `{name}` is not supported; supported: "
            f"{', '.join(_ACTIVATIONS)}."
        )
    if eps != _SHARED["layer_norm_eps"]:
        raise ValueError(
            f"`layer_norm_eps={short_repr(eps)}` in `{name}` is not supported: it must be 1e-5."
        )
    width = as_count("hidden_size", options["hidden_size"])
    return {
        "width": width,
        "depth": options["num_hidden_layers"],
        "num_heads": options["num_attention_heads"],
        "mlp_ratio": _ratio(as_count("intermediate_size", options["intermediate_size"]), width),
        "activation": _ACTIVATIONS[activation],
    }


def _ratio(hidden: int, width: int) -> float:
    """The ratio of which `int(width * ratio)` is the hidden layer."""
    ratio = as_positive("mlp_ratio", hidden / width)
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _pooling(text: Mapping[str, Any]) -> dict[str, Any]:
    """Where the feature is read: at the first end of text.

    Where that is the highest id it is what OpenCLIP reads, in every row that has one, as all rows
    of a tokenizer have.
    """
    eos, vocab_size = text["eos_token_id"], as_count("vocab_size", text["vocab_size"])
    if eos in (_LEGACY_EOS, vocab_size - 1):
        return {"pooling": "highest_id"}
    return {"pooling": "first_id", "eos_id": eos}


def config_to_transformers(model: CLIP) -> dict[str, Any]:
    """The contents of a `config.json` from which transformers' `CLIPModel` builds `model`.

    Raises `ValueError` for a model that `CLIPModel` cannot be.
    """
    image, text = model.image, model.text
    if type(image) is not VisionTransformer or type(text) is not TextTransformer:
        raise ValueError(
            "transformers' CLIP has a vision transformer and a text transformer; this model has a "
            f"{type(image).__name__} and a {type(text).__name__}. `format='open_clip'` knows more."
        )
    if model.logit_bias is not None:
        raise ValueError("transformers' CLIP has no `logit_bias`; this model has one.")
    _check(image.config, {"pooling": "class_token", "norm_pre": True})
    _check(text.config, {"causal": True})
    if text.config.pooling == "last" or text.config.eos_id == _LEGACY_EOS:
        raise ValueError(
            "transformers' CLIP reads the feature at the end of text, an id that is not 2, which "
            f"stands for the highest; this model's text tower is {text.config}."
        )
    eos = _LEGACY_EOS if text.config.eos_id is None else text.config.eos_id
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": LOGIT_SCALE,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.config.vocab_size,
            "max_position_embeddings": text.config.context_length,
            "eos_token_id": eos,
            "bos_token_id": text.config.vocab_size - 2,
            **_written(text.config),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "num_channels": 3,
            "image_size": image.config.image_size,
            "patch_size": image.config.patch_size,
            **_written(image.config),
        },
    }


def _written(config: ViTConfig | TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "hidden_act": config.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": config.embed_dim,
    }


def _check(config: ViTConfig | TextConfig, expected: Mapping[str, Any]) -> None:
    """`ValueError` for a part that transformers' CLIP does not have, or a size of two numbers."""
    for name, value in expected.items():
        given = getattr(config, name)
        if given != value:
            raise ValueError(
                f"transformers' CLIP has `{name}={value!r}` only; this model has {given!r}. "
                "`format='open_clip'` knows more."
            )
    for name in ("image_size", "patch_size"):
        if isinstance(getattr(config, name, 0), tuple):
            raise ValueError(
                f"transformers' CLIP has square images and patches only; this model has "
                f"`{name}={getattr(config, name)}`. `format='open_clip'` knows more."
            )
