"""The known weights, as data: where they are, and what they were trained with."""

import dataclasses

from .._checks import did_you_mean, short_repr
from .._clip import CLIPConfig
from .._types import Name
from ..images.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from .architectures import MODELS, find_model, other_names
from .pairs import normalized, pair_of, pairs_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One set of weights of a model, by its tag.

    `repos` are hub repositories, tried in order, and `files` the names tried in each.
    `open_clip` is OpenCLIP's name of the model and of the tag; it lists weights of the quick GELU
    under a second name, too, with `-quickgelu` behind. `image_size`, `mean` and `std` are those
    that the weights were trained with, in pixels and of RGB values from 0 to 1.
    """

    model: str
    tag: str
    open_clip: tuple[str, str]
    repos: tuple[str, ...]
    files: tuple[str, ...] = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
    quick_gelu: bool = False
    image_size: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    @property
    def config(self) -> CLIPConfig:
        """The model with this tag's activation, image size and statistics."""
        config = MODELS[self.model]
        preprocess = Preprocess(mean=self.mean, std=self.std)
        config = dataclasses.replace(config, preprocess=preprocess).resize(self.image_size)
        return config.with_quick_gelu() if self.quick_gelu else config


PRETRAINED: tuple[Pretrained, ...] = (
    Pretrained(
        model="convnext-base",
        tag="laion400m-s13b-b51k",
        open_clip=("convnext_base", "laion400m_s13b_b51k"),
        repos=("laion/CLIP-convnext_base-laion400M-s13B-b51K",),
    ),
    Pretrained(
        model="convnext-base-w",
        tag="laion-aesthetic-s13b-b82k",
        open_clip=("convnext_base_w", "laion_aesthetic_s13b_b82k"),
        repos=("laion/CLIP-convnext_base_w-laion_aesthetic-s13B-b82K",),
        image_size=256,
    ),
    Pretrained(
        model="convnext-base-w",
        tag="laion-aesthetic-s13b-b82k-320",
        open_clip=("convnext_base_w_320", "laion_aesthetic_s13b_b82k"),
        repos=("laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K",),
        image_size=320,
    ),
    Pretrained(
        model="convnext-base-w",
        tag="laion-aesthetic-s13b-b82k-augreg-320",
        open_clip=("convnext_base_w_320", "laion_aesthetic_s13b_b82k_augreg"),
        repos=("laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg",),
        image_size=320,
    ),
    Pretrained(
        model="convnext-base-w",
        tag="laion2b-s13b-b82k",
        open_clip=("convnext_base_w", "laion2b_s13b_b82k"),
        repos=("laion/CLIP-convnext_base_w-laion2B-s13B-b82K",),
        image_size=256,
    ),
    Pretrained(
        model="convnext-base-w",
        tag="laion2b-s13b-b82k-augreg",
        open_clip=("convnext_base_w", "laion2b_s13b_b82k_augreg"),
        repos=("laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg",),
        image_size=256,
    ),
    Pretrained(
        model="convnext-large-d",
        tag="laion2b-s26b-b102k-augreg",
        open_clip=("convnext_large_d", "laion2b_s26b_b102k_augreg"),
        repos=("laion/CLIP-convnext_large_d.laion2B-s26B-b102K-augreg",),
        image_size=256,
    ),
    Pretrained(
        model="convnext-large-d",
        tag="laion2b-s29b-b131k-ft-320",
        open_clip=("convnext_large_d_320", "laion2b_s29b_b131k_ft"),
        repos=("laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft",),
        image_size=320,
    ),
    Pretrained(
        model="convnext-large-d",
        tag="laion2b-s29b-b131k-ft-soup-320",
        open_clip=("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"),
        repos=("laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",),
        image_size=320,
    ),
    Pretrained(
        model="vit-base-patch32",
        tag="laion400m-e31",
        open_clip=("ViT-B-32", "laion400m_e31"),
        repos=("timm/vit_base_patch32_clip_224.laion400m_e31",),
        quick_gelu=True,
    ),
    Pretrained(
        model="vit-base-patch32",
        tag="laion400m-e32",
        open_clip=("ViT-B-32", "laion400m_e32"),
        repos=("timm/vit_base_patch32_clip_224.laion400m_e32",),
        quick_gelu=True,
    ),
    Pretrained(
        model="vit-base-patch32",
        tag="laion2b-e16",
        open_clip=("ViT-B-32", "laion2b_e16"),
        repos=("timm/vit_base_patch32_clip_224.laion2b_e16",),
    ),
    Pretrained(
        model="vit-base-patch32",
        tag="laion2b-s34b-b79k",
        open_clip=("ViT-B-32", "laion2b_s34b_b79k"),
        repos=("laion/CLIP-ViT-B-32-laion2B-s34B-b79K",),
    ),
    Pretrained(
        model="vit-base-patch32",
        tag="datacomp-m-s128m-b4k",
        open_clip=("ViT-B-32", "datacomp_m_s128m_b4k"),
        repos=("laion/CLIP-ViT-B-32-DataComp.M-s128M-b4K",),
    ),
    Pretrained(
        model="vit-base-patch32",
        tag="datacomp-xl-s13b-b90k",
        open_clip=("ViT-B-32", "datacomp_xl_s13b_b90k"),
        repos=("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",),
    ),
    Pretrained(
        model="vit-base-patch16",
        tag="laion400m-e31",
        open_clip=("ViT-B-16", "laion400m_e31"),
        repos=("timm/vit_base_patch16_clip_224.laion400m_e31",),
    ),
    Pretrained(
        model="vit-base-patch16",
        tag="laion400m-e32",
        open_clip=("ViT-B-16", "laion400m_e32"),
        repos=("timm/vit_base_patch16_clip_224.laion400m_e32",),
    ),
    Pretrained(
        model="vit-base-patch16",
        tag="laion2b-s34b-b88k",
        open_clip=("ViT-B-16", "laion2b_s34b_b88k"),
        repos=("laion/CLIP-ViT-B-16-laion2B-s34B-b88K",),
    ),
    Pretrained(
        model="vit-base-patch16",
        tag="dfn2b",
        open_clip=("ViT-B-16", "dfn2b"),
        repos=("apple/DFN2B-CLIP-ViT-B-16",),
        quick_gelu=True,
    ),
    Pretrained(
        model="vit-base-patch16",
        tag="datacomp-xl-s13b-b90k",
        open_clip=("ViT-B-16", "datacomp_xl_s13b_b90k"),
        repos=("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",),
    ),
    Pretrained(
        model="vit-large-patch14",
        tag="laion400m-e31",
        open_clip=("ViT-L-14", "laion400m_e31"),
        repos=("timm/vit_large_patch14_clip_224.laion400m_e31",),
    ),
    Pretrained(
        model="vit-large-patch14",
        tag="laion400m-e32",
        open_clip=("ViT-L-14", "laion400m_e32"),
        repos=("timm/vit_large_patch14_clip_224.laion400m_e32",),
    ),
    Pretrained(
        model="vit-large-patch14",
        tag="laion2b-s32b-b82k",
        open_clip=("ViT-L-14", "laion2b_s32b_b82k"),
        repos=("laion/CLIP-ViT-L-14-laion2B-s32B-b82K",),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    Pretrained(
        model="vit-huge-patch14",
        tag="laion2b-s32b-b79k",
        open_clip=("ViT-H-14", "laion2b_s32b_b79k"),
        repos=("laion/CLIP-ViT-H-14-laion2B-s32B-b79K",),
    ),
)


def find_pretrained(name: str, tag: str | None = None) -> Pretrained:
    """The weights of a model by tag, ours or OpenCLIP's; without a tag the last listed.

    Raises `ValueError`, with the nearest, for an unknown name or tag and for a model that has no
    weights.
    """
    rows = _rows(name)
    alias = find_model(name)
    names = other_names(alias.model) if normalized(name) == alias.model else [name]
    wanted = "" if tag is None else normalized(tag)
    for row in rows:
        if wanted in (row.tag, normalized(row.open_clip[1])):
            return row
    pair = pair_of(wanted, *names)
    if pair is not None:
        raise ValueError(f"{pair.answer} Weights of this model: {_tags(rows)}.")
    if not rows:
        theirs = [f" {pair.answer}" for pair in pairs_of(*names)]
        raise ValueError(
            f"There are no pretrained weights of {name!r}.{''.join(theirs[-1:])} "
            "`eqx_clip.create(name, key=...)` makes a new model; models with weights: "
            f"{', '.join(dict.fromkeys(row.model for row in PRETRAINED))}."
        )
    if tag is None:
        return rows[-1]
    raise ValueError(
        f"Unknown weights {short_repr(tag)} of {name!r}."
        f"{did_you_mean(wanted, [row.tag for row in rows])} Weights of this model: {_tags(rows)}."
    )


def _tags(rows: list[Pretrained]) -> str:
    return ", ".join(row.tag for row in rows) or "none"


def _rows(name: Name) -> list[Pretrained]:
    """A model's weights; for one of OpenCLIP's names those that OpenCLIP lists under it."""
    alias = find_model(name)
    rows = [row for row in PRETRAINED if row.model == alias.model]
    if normalized(name) == alias.model:
        return rows
    if alias.quick_gelu:
        return [row for row in rows if row.quick_gelu]
    return [row for row in rows if normalized(row.open_clip[0]) == normalized(name)]


def list_pretrained() -> tuple[tuple[str, str], ...]:
    """Every (model, tag) pair that `load` takes."""
    return tuple((row.model, row.tag) for row in PRETRAINED)


def list_pretrained_by_model(name: Name) -> tuple[str, ...]:
    """The tags of a model's weights. Raises `ValueError` for an unknown model."""
    return tuple(row.tag for row in _rows(name))
