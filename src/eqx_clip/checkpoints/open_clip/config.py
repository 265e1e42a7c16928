"""OpenCLIP's `open_clip_config.json`, read into our configurations and written back."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..._checks import as_count, short_repr
from ..._clip import CLIP, LOGIT_SCALE, CLIPConfig, Tower
from ..._types import Count
from ...images.preprocess import Preprocess
from ...towers.convnext import ConvNeXt, ConvNeXtConfig
from ...towers.text import TextConfig, TextTransformer
from ...towers.vit import VisionTransformer, ViTConfig


class Trunk(NamedTuple):
    """What timm means by the name of a ConvNeXt."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    norm_eps: float = 1e-6


TIMM_TRUNKS: Mapping[str, Trunk] = {
    "convnext_tiny": Trunk((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": Trunk((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": Trunk((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": Trunk((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": Trunk((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "convnext_xxlarge": Trunk((3, 4, 30, 3), (384, 768, 1536, 3072), norm_eps=1e-5),
}

# Options that change the numbers and are known here by one value alone, OpenCLIP's default.
_TRANSFORMER_DEFAULTS = {
    "ls_init_value": None,
    "final_ln_after_pool": False,
    "act_kwargs": None,
    "norm_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_VIT_DEFAULTS = {
    **_TRANSFORMER_DEFAULTS,
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "pool_type": "tok",
}
_TIMM_DEFAULTS = {"timm_pool": "", "timm_proj_bias": False}
_TEXT_DEFAULTS = {
    **_TRANSFORMER_DEFAULTS,
    "embed_cls": False,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
    "tokenizer_kwargs": None,
}
# Repositories whose tokenizer is CLIP's own. By way of transformers it pads with the end of text,
# which no feature shows: each is read at the first one, and attention is causal.
_CLIP_TOKENIZERS = re.compile(r"openai/clip-vit-[\w-]+|laion/CLIP-(?!.*roberta).+")
# Options of training, and options of an option that is off: they change no feature.
_WITHOUT_EFFECT = {
    *("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"),
    *("eos_id", "pad_id"),  # of a pooling and of a class token that are not supported
    *("timm_model_pretrained", "timm_drop", "timm_drop_path"),
    *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    *("output_dict", "nonscalar_logit_scale", "custom_text"),
}
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


def config_from_open_clip(config: Mapping[str, Any]) -> CLIPConfig:
    """The configuration that an `open_clip_config.json` describes.

    `config` is the whole file or its `model_cfg` alone. What OpenCLIP leaves aside is left aside.
    Raises `ValueError` for what no tower here can reproduce, naming the option, and for options
    on which OpenCLIP fails.
    """
    whole = config if "model_cfg" in config else {"model_cfg": config}
    model = _section(whole, "model_cfg")
    preprocess = _section(config, "preprocess_cfg") if config.get("preprocess_cfg") else {}
    if preprocess.get("mode") not in (None, "RGB"):  # other keys OpenCLIP leaves aside
        raise ValueError(f"`mode={short_repr(preprocess['mode'])}` must be 'RGB'.")
    vision, text = _section(model, "vision_cfg"), _section(model, "text_cfg")
    embed_dim = _required(model, "embed_dim", "model_cfg")
    quick_gelu = model.pop("quick_gelu", None)
    if quick_gelu not in (None, False, True):
        raise ValueError(f"`quick_gelu` must be true or false; got {short_repr(quick_gelu)}.")
    activation = "quick_gelu" if quick_gelu else "gelu"
    options = {
        "init_logit_scale": model.pop("init_logit_scale", LOGIT_SCALE),
        "init_logit_bias": model.pop("init_logit_bias", None),
    }
    known = ("embed_dim", "vision_cfg", "text_cfg")
    _refuse_others({key: model[key] for key in model if key not in known}, {}, "model_cfg")
    trunk = vision.pop("timm_model_name", None)
    image = _convnext(vision, trunk, embed_dim) if trunk else _vit(vision, embed_dim, activation)
    return CLIPConfig(
        image=image,
        text=_text(text, embed_dim, activation),
        preprocess=Preprocess(
            image_size=image.image_size,
            **{key: preprocess[key] for key in _PREPROCESS_KEYS if preprocess.get(key) is not None},
        ),
        **options,
    )


def _vit(cfg: dict[str, Any], embed_dim: Count, activation: Any) -> ViTConfig:
    cfg = {key: value for key, value in cfg.items() if not key.startswith("timm_")}
    width = as_count("width", cfg.pop("width", 768))
    head_width = as_count("head_width", cfg.pop("head_width", 64))
    if isinstance(cfg.get("layers"), list | tuple):
        raise ValueError(
            f"`vision_cfg` describes a ResNet (`layers={short_repr(cfg['layers'])}`), which is not "
            "supported."
        )
    config = ViTConfig(
        image_size=_size(cfg.pop("image_size", 224)),
        patch_size=_size(cfg.pop("patch_size", 16)),
        width=width,
        depth=cfg.pop("layers", 12),
        num_heads=width // head_width,
        mlp_ratio=cfg.pop("mlp_ratio", 4.0),
        embed_dim=embed_dim,
        activation=activation,
    )
    _refuse_others(cfg, _VIT_DEFAULTS, "vision_cfg")
    return config


def _convnext(cfg: dict[str, Any], name: Any, embed_dim: Count) -> ConvNeXtConfig:
    # OpenCLIP ignores the transformer's options, and `quick_gelu`, in timm's towers.
    sizes = ("layers", "width", "head_width", "mlp_ratio", "patch_size")
    cfg = {key: value for key, value in cfg.items() if key not in (*sizes, *_VIT_DEFAULTS)}
    head = cfg.pop("timm_proj", "linear")
    name = name.partition(".")[0] if isinstance(name, str) else name  # timm's name of the weights
    if name not in tuple(TIMM_TRUNKS):  # not by its hash: a JSON file may hold anything here
        raise ValueError(
            f"`timm_model_name={short_repr(name)}` is not supported; supported: "
            f"{', '.join(TIMM_TRUNKS)}."
        )
    if head not in ("linear", "mlp"):
        raise ValueError(
            f"`timm_proj={short_repr(head)}` is not supported; supported: linear, mlp."
        )
    if cfg.get("timm_pool") == "avg":
        del cfg["timm_pool"]  # what the default stands for in a ConvNeXt
    image_size = _size(cfg.pop("image_size", 224))
    _refuse_others(cfg, _TIMM_DEFAULTS, "vision_cfg")
    return ConvNeXtConfig(
        image_size=image_size, embed_dim=embed_dim, head=head, **TIMM_TRUNKS[name]._asdict()
    )


def _text(cfg: dict[str, Any], embed_dim: Count, activation: Any) -> TextConfig:
    config = TextConfig(
        context_length=cfg.pop("context_length", 77),
        vocab_size=cfg.pop("vocab_size", 49408),
        width=cfg.pop("width", 512),
        depth=cfg.pop("layers", 12),
        num_heads=cfg.pop("heads", 8),
        mlp_ratio=cfg.pop("mlp_ratio", 4.0),
        embed_dim=embed_dim,
        activation=activation,
    )
    tokenizer = cfg.get("hf_tokenizer_name")
    if isinstance(tokenizer, str) and _CLIP_TOKENIZERS.fullmatch(tokenizer):
        del cfg["hf_tokenizer_name"]
    elif not tokenizer:
        cfg.pop("tokenizer_mode", None)  # which OpenCLIP's own tokenizer does not have
    if cfg.get("tokenizer_kwargs") == {"clean": "lower"}:
        del cfg["tokenizer_kwargs"]  # OpenCLIP's default
    _refuse_others(cfg, _TEXT_DEFAULTS, "text_cfg")
    return config


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = _required(config, name, "the configuration")
    if not isinstance(section, Mapping) or not all(isinstance(key, str) for key in section):
        raise ValueError(f"`{name}` must be an object of options; it is {short_repr(section)}.")
    return dict(section)


def _required(config: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in config:
        raise ValueError(
            f"{where} has no {key!r}; expected OpenCLIP's format, with `embed_dim`, `vision_cfg` "
            f"and `text_cfg`. It has: {short_repr(list(config)) if config else 'nothing'}."
        )
    return config[key]


def _size(size: Any) -> Any:
    """JSON has lists for pairs."""
    return tuple(size) if isinstance(size, list) else size


def _refuse_others(rest: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """A `ValueError` for an option, of those that nobody took, that would change the numbers."""
    for key, value in rest.items():
        if key in _WITHOUT_EFFECT or (
            key in defaults and (value or None) == (defaults[key] or None)
        ):
            continue
        problem = "is not supported" if key in defaults else "is not known"
        raise ValueError(f"`{key:.80}={short_repr(value)}` in `{where}` {problem}.")


def config_to_open_clip(model: CLIP) -> dict[str, Any]:
    """The contents of an `open_clip_config.json` from which OpenCLIP builds `model`.

    Raises `ValueError` for a model that OpenCLIP cannot build.
    """
    image, text, preprocess = model.image, model.text, model.preprocess
    if not isinstance(text, TextTransformer):
        raise unknown_tower(text)
    if isinstance(image, VisionTransformer):
        vision_cfg = _vit_to_open_clip(image.config)
        if image.config.activation != text.config.activation:
            raise ValueError(
                "OpenCLIP has one activation for both transformers; this model has "
                f"{image.config.activation!r} and {text.config.activation!r}."
            )
    elif isinstance(image, ConvNeXt):
        vision_cfg = _convnext_to_open_clip(image.config)
    else:
        raise unknown_tower(image)
    model_cfg: dict[str, Any] = {"embed_dim": model.embed_dim}
    if text.config.activation == "quick_gelu":
        model_cfg["quick_gelu"] = True
    if model.logit_bias is not None:
        model_cfg["init_logit_bias"] = float(model.logit_bias)
    model_cfg |= {"vision_cfg": vision_cfg, "text_cfg": _text_to_open_clip(text.config)}
    preprocess_cfg = {key: getattr(preprocess, key) for key in _PREPROCESS_KEYS}
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}


def _vit_to_open_clip(config: ViTConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "layers": config.depth,
        "width": config.width,
        "head_width": config.width // config.num_heads,
        "patch_size": config.patch_size,
        "mlp_ratio": config.mlp_ratio,
    }


def _convnext_to_open_clip(config: ConvNeXtConfig) -> dict[str, Any]:
    trunk = Trunk(config.depths, config.widths, config.norm_eps)
    for name, known in TIMM_TRUNKS.items():
        if trunk == known:
            return {
                "timm_model_name": name,
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": config.head,
                "image_size": config.image_size,
            }
    raise ValueError(
        f"timm has no ConvNeXt with depths {trunk.depths}, widths {trunk.widths} and epsilon "
        f"{trunk.norm_eps}, so OpenCLIP cannot build it."
    )


def _text_to_open_clip(config: TextConfig) -> dict[str, Any]:
    return {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "width": config.width,
        "heads": config.num_heads,
        "layers": config.depth,
        "mlp_ratio": config.mlp_ratio,
    }


def unknown_tower(tower: Tower) -> ValueError:
    return ValueError(
        f"OpenCLIP has no tower like {type(tower).__name__}, so this model has no form in its "
        "format. `eqx.tree_serialise_leaves(path, model)` writes any model."
    )
