"""The known architectures, as data, and the names they go by."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from .._checks import did_you_mean, short_repr
from .._clip import CLIPConfig
from .._types import Head
from ..checkpoints.open_clip.convnext import TIMM_TRUNKS
from ..images.preprocess import Preprocess
from ..tokenizers.json_file import JSONTokenizer
from ..tokenizers.protocol import AnyTokenizer
from ..towers.convnext import ConvNeXtConfig
from ..towers.resnet import ResNetConfig
from ..towers.text import TextConfig
from ..towers.vit import ViTConfig
from .pairs import normalized, open_clip_pairs, pairs_of, words
from .siglip import SIGLIP
from .statistics import STATISTICS


def _vit(
    patch_size: int,
    image: tuple[int, int],
    text: tuple[int, int],
    *,
    head_width: int = 64,
    text_head_width: int = 64,
    mlp_ratio: float = 4.0,
    image_size: int = 224,
) -> CLIPConfig:
    """A model of a vision transformer and a text transformer, each (width, depth).

    The embedding is as wide as the text tower, in every model of OpenCLIP's listed here.
    """
    (width, depth), (text_width, text_depth) = image, text
    return CLIPConfig(
        image=ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            depth=depth,
            num_heads=width // head_width,
            mlp_ratio=mlp_ratio,
            embed_dim=text_width,
        ),
        text=_text(text_width, text_depth, head_width=text_head_width),
        preprocess=Preprocess(image_size=image_size),
    )


def _clipa(config: CLIPConfig) -> CLIPConfig:
    """The CLIPA of a model (Li et al. 2023, arXiv:2305.07017): no norm before the blocks, the mean
    of the patches, short texts in which every token sees every other, BERT's tokenizer, ImageNet's
    statistics of pixels."""
    image = dataclasses.replace(config.image, norm_pre=False, pooling="mean_patch")
    text = dataclasses.replace(
        config.text, context_length=32, vocab_size=32000, causal=False, pooling="last"
    )
    tokenizer = JSONTokenizer("bert-base-uncased", 32, strip_sep_token=True)
    preprocess = Preprocess(
        image_size=config.image.image_size,
        interpolation="bilinear",
        resize_mode="squash",
        **STATISTICS["imagenet"],
    )
    return dataclasses.replace(
        config, image=image, text=text, preprocess=preprocess, tokenizer=tokenizer
    )


_XLM_V = JSONTokenizer("facebook/xlm-v-base")
_MT5 = JSONTokenizer("google/mt5-base", clean="canonicalize")


def _worldwide(
    config: CLIPConfig,
    *,
    vocab_size: int = 901629,
    eos_id: int = 2,
    tokenizer: AnyTokenizer = _XLM_V,
) -> CLIPConfig:
    """The MetaCLIP 2 of a model (Chuang et al. 2025, arXiv:2507.22062): a vocabulary of all
    languages, and the feature of a text at the first end of text."""
    text = dataclasses.replace(
        config.text, vocab_size=vocab_size, pooling="first_id", eos_id=eos_id
    )
    return dataclasses.replace(config, text=text, tokenizer=tokenizer)


def _resnet(
    depths: tuple[int, ...], width: int, text_width: int, *, embed_dim: int, image_size: int = 224
) -> CLIPConfig:
    return CLIPConfig(
        image=ResNetConfig(
            image_size=image_size,
            depths=depths,
            width=width,
            num_heads=width // 2,
            embed_dim=embed_dim,
        ),
        text=_text(text_width, 12, embed_dim=embed_dim),
        preprocess=Preprocess(image_size=image_size),
    )


def _convnext(
    trunk: str,
    text: tuple[int, int],
    *,
    image_size: int,
    embed_dim: int | None = None,
    head: Head = "linear",
) -> CLIPConfig:
    """A model of timm's ConvNeXt of this name and a text transformer (width, depth)."""
    text_width, text_depth = text
    embed_dim = embed_dim or text_width
    return CLIPConfig(
        image=ConvNeXtConfig(
            image_size=image_size, embed_dim=embed_dim, head=head, **TIMM_TRUNKS[trunk]._asdict()
        ),
        text=_text(text_width, text_depth, embed_dim=embed_dim),
        preprocess=Preprocess(image_size=image_size),
    )


def _text(
    width: int, depth: int, *, head_width: int = 64, embed_dim: int | None = None
) -> TextConfig:
    return TextConfig(
        width=width, depth=depth, num_heads=width // head_width, embed_dim=embed_dim or width
    )


_L14 = _vit(14, (1024, 24), (768, 12))
_H14 = _vit(14, (1280, 32), (1024, 24), head_width=80)
_BIG_G14 = _vit(14, (1664, 48), (1280, 32), head_width=104, mlp_ratio=4.9231)

# The predecessor's models by its names, all others by OpenCLIP's.
MODELS: Mapping[str, CLIPConfig] = {
    "convnext-base-w": _convnext("convnext_base", text=(640, 12), image_size=256),
    "convnext-base": _convnext("convnext_base", text=(512, 12), image_size=224),
    "convnext-large-d": _convnext("convnext_large", text=(768, 16), image_size=256, head="mlp"),
    "vit-base-patch16": _vit(16, (768, 12), (512, 12)),
    "vit-base-patch32": _vit(32, (768, 12), (512, 12)),
    "vit-huge-patch14": _H14,
    "vit-huge-patch16": _vit(16, (1280, 32), (1024, 24), head_width=80),
    "vit-large-patch14": _L14,
    "vit-large-patch16": _vit(16, (1024, 24), (768, 12)),
    "vit-nano-patch32": _vit(32, (64, 2), (64, 2), head_width=16, text_head_width=16),
    "vit-small-patch16": _vit(16, (384, 12), (384, 12)),
    "vit-small-patch32": _vit(32, (384, 12), (384, 12)),
    "ViT-S-32-alt": _vit(32, (384, 12), (256, 10)),
    "ViT-S-16-alt": _vit(16, (384, 12), (256, 10)),
    "ViT-M-32": _vit(32, (512, 12), (512, 12)),
    "ViT-M-32-alt": _vit(32, (512, 12), (384, 12)),
    "ViT-M-16": _vit(16, (512, 12), (512, 12)),
    "ViT-B-32-256": _vit(32, (768, 12), (512, 12), image_size=256),
    "ViT-B-32-plus-256": _vit(32, (896, 12), (640, 12), image_size=256),
    "ViT-B-16-plus": _vit(16, (896, 12), (640, 12)),
    "ViT-B-16-plus-240": _vit(16, (896, 12), (640, 12), image_size=240),
    "ViT-L-16-320": _vit(16, (1024, 24), (768, 12), image_size=320),
    "ViT-L-14-280": _L14.resize(280),
    "ViT-L-14-336": _L14.resize(336),
    "ViT-H-14-378": _H14.resize(378),
    "ViT-g-14": _vit(14, (1408, 40), (1024, 24), head_width=88, mlp_ratio=4.3637),
    "ViT-bigG-14": _BIG_G14,
    "ViT-e-14": _vit(14, (1792, 56), (1280, 36), head_width=112, mlp_ratio=8.5715),
    "ViT-L-14-CLIPA": _clipa(_L14),
    "ViT-L-14-CLIPA-336": _clipa(_L14.resize(336)),
    "ViT-H-14-CLIPA": _clipa(_H14),
    "ViT-H-14-CLIPA-336": _clipa(_H14.resize(336)),
    "ViT-bigG-14-CLIPA": _clipa(_BIG_G14),
    "ViT-bigG-14-CLIPA-336": _clipa(_BIG_G14.resize(336)),
    "ViT-L-14-worldwide": _worldwide(_L14, vocab_size=250100, eos_id=1, tokenizer=_MT5),
    "ViT-H-14-worldwide": _worldwide(_H14),
    "ViT-H-14-worldwide-378": _worldwide(_H14.resize(378)),
    "ViT-bigG-14-worldwide": _worldwide(_BIG_G14),
    "ViT-bigG-14-worldwide-378": _worldwide(_BIG_G14.resize(378)),
    **SIGLIP,
    "RN50": _resnet((3, 4, 6, 3), 64, 512, embed_dim=1024),
    "RN101": _resnet((3, 4, 23, 3), 64, 512, embed_dim=512),
    "RN50x4": _resnet((4, 6, 10, 6), 80, 640, embed_dim=640, image_size=288),
    "RN50x16": _resnet((6, 8, 18, 8), 96, 768, embed_dim=768, image_size=384),
    "RN50x64": _resnet((3, 15, 36, 10), 128, 1024, embed_dim=1024, image_size=448),
    "convnext_tiny": _convnext("convnext_tiny", text=(512, 12), image_size=224, embed_dim=1024),
    "convnext_small": _convnext("convnext_small", text=(512, 12), image_size=224),
    "convnext_large": _convnext("convnext_large", text=(768, 12), image_size=224),
    "convnext_xlarge": _convnext("convnext_xlarge", text=(1024, 20), image_size=256),
    "convnext_xxlarge": _convnext("convnext_xxlarge", text=(1024, 24), image_size=256),
}


LISTING = f"`eqx_clip.list_models()` lists the {len(MODELS)} models."


class Alias(NamedTuple):
    """Another spelling of a model: its name here, and what that spelling changes."""

    model: str
    quick_gelu: bool = False
    image_size: int | None = None


_SPELLINGS = {
    "ViT-S-32": "vit-small-patch32",
    "ViT-S-16": "vit-small-patch16",
    "ViT-B-32": "vit-base-patch32",
    "ViT-B-16": "vit-base-patch16",
    "ViT-L-16": "vit-large-patch16",
    "ViT-L-14": "vit-large-patch14",
    "ViT-H-16": "vit-huge-patch16",
    "ViT-H-14": "vit-huge-patch14",
    "convnext_base": "convnext-base",
    "convnext_base_w": "convnext-base-w",
    "convnext_large_d": "convnext-large-d",
    "vit-eps-patch32": "vit-nano-patch32",  # the predecessor's code; its README says nano
}
# OpenCLIP has these a second time, with `-quickgelu` behind the name.
_QUICK_GELU = (
    *("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-H-14-378"),
    *("ViT-bigG-14", "ViT-L-14-worldwide", "ViT-H-14-worldwide"),
    *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
)

ALIASES: Mapping[str, Alias] = {
    **{name: Alias(model) for name, model in _SPELLINGS.items()},
    **{
        f"{name}-quickgelu": Alias(_SPELLINGS.get(name, name), quick_gelu=True)
        for name in _QUICK_GELU
    },
    "convnext_base_w_320": Alias("convnext-base-w", image_size=320),
    "convnext_large_d_320": Alias("convnext-large-d", image_size=320),
    "convnext_xxlarge_320": Alias("convnext_xxlarge", image_size=320),
}


_BY_NAME = {
    **{normalized(name): Alias(name) for name in MODELS},
    **{normalized(name): alias for name, alias in ALIASES.items()},
}


def is_model(name: str) -> bool:
    """Whether `name`, ours or OpenCLIP's, is a known model."""
    return normalized(name) in _BY_NAME


def find_model(name: Any) -> Alias:
    """What `name`, ours or OpenCLIP's, stands for. Raises `ValueError` with the nearest name."""
    if not isinstance(name, str):
        raise ValueError(f"Expected the name of a model; got {short_repr(name)}.")
    alias = _BY_NAME.get(normalized(name))
    if alias is None:
        theirs = pairs_of(name)
        problem = theirs[-1].answer if theirs else f"Unknown model {short_repr(name)}."
        raise ValueError(f"{problem}{nearest_model(name)} {LISTING}")
    return alias


def other_names(model: str) -> list[str]:
    """The other spellings of a model of `MODELS`."""
    return [name for name, alias in ALIASES.items() if alias.model == model]


def nearest_model(name: str) -> str:
    """' Did you mean ...?' with the nearest model of the same family, or nothing."""
    ours = (*MODELS, *ALIASES)
    theirs = [pair.model for pair in open_clip_pairs() if not is_model(pair.model)]
    others = {word for model in theirs for word in words(model) if len(word) > 2}
    others -= {word for model in ours for word in words(model)}
    first, *later = words(name) or [""]
    if others & {first, *later}:
        return ""
    # The first word is the family's; a name with `siglip` in it means no other.
    known = {word for model in ours for word in words(model) if len(word) > 2} & {first, *later}
    near = [m for m in ours if get_close_matches(first, words(m)[:1]) and known <= {*words(m)}]
    return did_you_mean(name, near)


def model_config(name: str) -> CLIPConfig:
    """The configuration that `name`, ours or OpenCLIP's, stands for."""
    alias = find_model(name)
    config = MODELS[alias.model].resize(alias.image_size)
    return config.with_quick_gelu() if alias.quick_gelu else config


def list_models() -> tuple[str, ...]:
    """The name of every architecture, with or without weights."""
    return tuple(MODELS)
