"""The known architectures, as data, and the names they go by."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from .._checks import did_you_mean, short_repr
from .._clip import CLIPConfig
from .._types import Head
from ..images.preprocess import Preprocess
from ..towers.convnext import ConvNeXtConfig
from ..towers.text import TextConfig
from ..towers.vit import ViTConfig
from .pairs import BUILT_FAMILIES, normalized, open_clip_pairs, pairs_of, words


def _vit(
    patch_size: int, image: tuple[int, int], text: tuple[int, int], *, head_width: int = 64
) -> CLIPConfig:
    """A model of a vision transformer and a text transformer, each (width, depth).

    The embedding is as wide as the text tower, in every model of OpenCLIP's listed here.
    """
    (width, depth), (text_width, text_depth) = image, text
    return CLIPConfig(
        image=ViTConfig(
            patch_size=patch_size,
            width=width,
            depth=depth,
            num_heads=width // head_width,
            embed_dim=text_width,
        ),
        text=_text(text_width, text_depth, min(head_width, 64)),
        preprocess=Preprocess(image_size=224),
    )


def _convnext(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    text: tuple[int, int],
    *,
    image_size: int,
    head: Head = "linear",
) -> CLIPConfig:
    embed_dim, text_depth = text
    return CLIPConfig(
        image=ConvNeXtConfig(
            image_size=image_size, depths=depths, widths=widths, embed_dim=embed_dim, head=head
        ),
        text=_text(embed_dim, text_depth, 64),
        preprocess=Preprocess(image_size=image_size),
    )


def _text(width: int, depth: int, head_width: int) -> TextConfig:
    return TextConfig(width=width, depth=depth, num_heads=width // head_width, embed_dim=width)


_BASE = ((3, 3, 27, 3), (128, 256, 512, 1024))
_LARGE = ((3, 3, 27, 3), (192, 384, 768, 1536))

MODELS: Mapping[str, CLIPConfig] = {
    "convnext-base-w": _convnext(*_BASE, text=(640, 12), image_size=256),
    "convnext-base": _convnext(*_BASE, text=(512, 12), image_size=224),
    "convnext-large-d": _convnext(*_LARGE, text=(768, 16), image_size=256, head="mlp"),
    "vit-base-patch16": _vit(16, (768, 12), (512, 12)),
    "vit-base-patch32": _vit(32, (768, 12), (512, 12)),
    "vit-huge-patch14": _vit(14, (1280, 32), (1024, 24), head_width=80),
    "vit-huge-patch16": _vit(16, (1280, 32), (1024, 24), head_width=80),
    "vit-large-patch14": _vit(14, (1024, 24), (768, 12)),
    "vit-large-patch16": _vit(16, (1024, 24), (768, 12)),
    "vit-nano-patch32": _vit(32, (64, 2), (64, 2), head_width=16),
    "vit-small-patch16": _vit(16, (384, 12), (384, 12)),
    "vit-small-patch32": _vit(32, (384, 12), (384, 12)),
}


class Alias(NamedTuple):
    """Another spelling of a model: its name here, and what that spelling changes."""

    model: str
    quick_gelu: bool = False
    image_size: int | None = None


ALIASES: Mapping[str, Alias] = {
    "ViT-S-32": Alias("vit-small-patch32"),
    "ViT-S-16": Alias("vit-small-patch16"),
    "ViT-B-32": Alias("vit-base-patch32"),
    "ViT-B-32-quickgelu": Alias("vit-base-patch32", quick_gelu=True),
    "ViT-B-16": Alias("vit-base-patch16"),
    "ViT-B-16-quickgelu": Alias("vit-base-patch16", quick_gelu=True),
    "ViT-L-16": Alias("vit-large-patch16"),
    "ViT-L-14": Alias("vit-large-patch14"),
    "ViT-L-14-quickgelu": Alias("vit-large-patch14", quick_gelu=True),
    "ViT-H-16": Alias("vit-huge-patch16"),
    "ViT-H-14": Alias("vit-huge-patch14"),
    "ViT-H-14-quickgelu": Alias("vit-huge-patch14", quick_gelu=True),
    "convnext_base": Alias("convnext-base"),
    "convnext_base_w": Alias("convnext-base-w"),
    "convnext_base_w_320": Alias("convnext-base-w", image_size=320),
    "convnext_large_d": Alias("convnext-large-d"),
    "convnext_large_d_320": Alias("convnext-large-d", image_size=320),
    "vit-eps-patch32": Alias("vit-nano-patch32"),  # the predecessor's code; its README says nano
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
        raise ValueError(f"{problem}{nearest_model(name)} Models: {', '.join(MODELS)}.")
    return alias


def other_names(model: str) -> list[str]:
    """The other spellings of a model of `MODELS`."""
    return [name for name, alias in ALIASES.items() if alias.model == model]


def nearest_model(name: str) -> str:
    """' Did you mean ...?' with the nearest model of the same family, or nothing."""
    ours = (*MODELS, *ALIASES)
    theirs = [pair.model for pair in open_clip_pairs() if pair.family not in BUILT_FAMILIES]
    others = {word for model in theirs for word in words(model) if len(word) > 2}
    others -= {word for model in ours for word in words(model)}
    first, *rest = words(name) or [""]
    if others & {first, *rest}:
        return ""
    # The first word is the family's.
    return did_you_mean(name, [m for m in ours if get_close_matches(first, words(m)[:1])])


def model_config(name: str) -> CLIPConfig:
    """The configuration that `name`, ours or OpenCLIP's, stands for."""
    alias = find_model(name)
    config = MODELS[alias.model].resize(alias.image_size)
    return config.with_quick_gelu() if alias.quick_gelu else config


def list_models() -> tuple[str, ...]:
    """The name of every architecture, with or without weights."""
    return tuple(MODELS)
