"""OpenCLIP's `open_clip_config.json`, read into our configurations and written back."""

import re
from collections.abc import Mapping
from typing import Any

from .._checks import short_repr
from .._clip import CLIP, LOGIT_SCALE, CLIPConfig
from ..images.preprocess import Preprocess
from ..tokenizers.clip import Tokenizer
from ..tokenizers.json_file import JSONTokenizer
from ..tokenizers.protocol import AnyTokenizer
from ..zoo.families import FAMILIES, Family, family_of
from .open_clip.options import Options, required, section


# Repositories whose tokenizer is CLIP's own. By way of transformers it pads with the end of text,
# which no feature shows: each is read at the first one, and attention is causal.
_CLIP_TOKENIZERS = re.compile(r"openai/clip-vit-[\w-]+|laion/CLIP-(?!.*roberta).+")
_TOKENIZER_OPTIONS = ("clean", "strip_sep_token")
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


def config_from_open_clip(config: Mapping[str, Any]) -> CLIPConfig:
    """The configuration that an `open_clip_config.json` describes.

    `config` is the whole file or its `model_cfg` alone. What OpenCLIP leaves aside is left aside.
    Raises `ValueError` for what no tower here can reproduce, naming the option, and for options
    on which OpenCLIP fails.
    """
    whole = config if "model_cfg" in config else {"model_cfg": config}
    model = section(whole, "model_cfg")
    preprocess = section(config, "preprocess_cfg") if config.get("preprocess_cfg") else {}
    if preprocess.get("mode") not in (None, "RGB"):  # other keys OpenCLIP leaves aside
        raise ValueError(f"`mode={short_repr(preprocess['mode'])}` must be 'RGB'.")
    vision, text = section(model, "vision_cfg"), section(model, "text_cfg")
    embed_dim = required(model, "embed_dim", "model_cfg")
    options = Options(model, "model_cfg")
    options.leave_aside("embed_dim", "vision_cfg", "text_cfg")
    quick_gelu = options.take("quick_gelu", None)
    if quick_gelu not in (None, False, True):
        raise ValueError(f"`quick_gelu` must be true or false; got {short_repr(quick_gelu)}.")
    logits = {
        "init_logit_scale": options.take("init_logit_scale", LOGIT_SCALE),
        "init_logit_bias": options.take("init_logit_bias", None),
    }
    options.refuse_others({})
    image = _tower(vision, "vision_cfg", embed_dim, bool(quick_gelu))
    tokenizer = _take_tokenizer(text)
    return CLIPConfig(
        image=image,
        text=_tower(text, "text_cfg", embed_dim, bool(quick_gelu)),
        preprocess=Preprocess(
            image_size=image.image_size,
            **{key: preprocess[key] for key in _PREPROCESS_KEYS if preprocess.get(key) is not None},
        ),
        tokenizer=tokenizer,
        **logits,
    )


def _tower(options: Mapping[str, Any], name: str, embed_dim: Any, quick_gelu: bool) -> Any:
    for family in FAMILIES:
        naming = family.open_clip
        if naming.section == name and naming.describes(options):
            return naming.read(Options(options, name), embed_dim, quick_gelu)
    names = [key for key in ("hf_model_name", "timm_model_name") if options.get(key)]
    shown = {key: options[key] for key in names or options}
    problem = ", ".join(f"`{key}={short_repr(value)}`" for key, value in shown.items())
    raise ValueError(f"{problem} in `{name}` is not supported: eqx_clip has no such tower yet.")


def _take_tokenizer(text: dict[str, Any]) -> AnyTokenizer:
    """The tokenizer that a `text_cfg` names; what names it is taken away."""
    options = {
        key: text.pop(key, None)
        for key in ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
    }
    name, mode, kwargs = options.values()
    is_clips = not name or (isinstance(name, str) and _CLIP_TOKENIZERS.fullmatch(name))
    if name and (mode or not isinstance(name, str)):
        raise ValueError(
            f"`tokenizer_mode={short_repr(mode)}` with `hf_tokenizer_name={short_repr(name)}` in "
            "`text_cfg` is not supported."
        )
    if is_clips:
        if kwargs and kwargs != {"clean": "lower"}:  # OpenCLIP's default
            raise ValueError(
                f"`tokenizer_kwargs={short_repr(kwargs)}` in `text_cfg` is not supported."
            )
        return Tokenizer()
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, Mapping) or not {*kwargs} <= {*_TOKENIZER_OPTIONS}:
        raise ValueError(
            f"`tokenizer_kwargs={short_repr(kwargs)}` in `text_cfg` is not supported: known are "
            f"{', '.join(_TOKENIZER_OPTIONS)}."
        )
    return JSONTokenizer(name, **kwargs)


def config_to_open_clip(model: CLIP) -> dict[str, Any]:
    """The contents of an `open_clip_config.json` from which OpenCLIP builds `model`.

    Raises `ValueError` for a model that OpenCLIP cannot build.
    """
    image, text = _written(model.image, "vision_cfg"), _written(model.text, "text_cfg")
    preprocess, tokenizer = model.preprocess, model.tokenizer
    configs: list[Any] = [getattr(tower, "config", None) for tower in (model.image, model.text)]
    quick_gelu = {family_of(config).open_clip.quick_gelu(config) for config in configs} - {None}
    if len(quick_gelu) > 1:
        raise ValueError(
            "OpenCLIP has one activation for both transformers; this model has "
            f"{configs[0].activation!r} and {configs[1].activation!r}."
        )
    model_cfg: dict[str, Any] = {"embed_dim": model.embed_dim}
    if True in quick_gelu:
        model_cfg["quick_gelu"] = True
    if model.logit_bias is not None:
        model_cfg["init_logit_bias"] = float(model.logit_bias)
    if isinstance(tokenizer, JSONTokenizer):
        usual = JSONTokenizer(tokenizer.name)
        options = {key: getattr(tokenizer, key) for key in _TOKENIZER_OPTIONS}
        changed = {key: value for key, value in options.items() if value != getattr(usual, key)}
        text |= {"hf_tokenizer_name": tokenizer.name, "tokenizer_kwargs": changed}
    model_cfg |= {"vision_cfg": image, "text_cfg": text}
    preprocess_cfg = {key: getattr(preprocess, key) for key in _PREPROCESS_KEYS}
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}


def _written(tower: Any, name: str) -> dict[str, Any]:
    family: Family = family_of(tower)
    if family.open_clip.section != name:
        raise ValueError(f"A {type(tower).__name__} has no place in OpenCLIP's `{name}`.")
    return family.open_clip.write(tower.config)
