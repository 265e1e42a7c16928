"""The families of towers: what a kind of tower is called, and how each format has it."""

import dataclasses
from typing import Any

from ..checkpoints.open_clip import convnext, resnet, text, timm_vit, vit
from ..checkpoints.open_clip.naming import Naming
from ..towers.convnext import ConvNeXt, ConvNeXtConfig
from ..towers.resnet import ModifiedResNet, ResNetConfig
from ..towers.text import TextConfig, TextTransformer
from ..towers.timm_vit import TimmViT, TimmViTConfig
from ..towers.vit import VisionTransformer, ViTConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of tower: its configuration, the module that this builds, and its formats."""

    name: str
    config: type
    module: type
    open_clip: Naming


FAMILIES = (
    Family("ViT", ViTConfig, VisionTransformer, vit.NAMING),
    Family("ResNet", ResNetConfig, ModifiedResNet, resnet.NAMING),
    Family("ConvNeXt", ConvNeXtConfig, ConvNeXt, convnext.NAMING),
    Family("SigLIP ViT", TimmViTConfig, TimmViT, timm_vit.NAMING),
    Family("text transformer", TextConfig, TextTransformer, text.NAMING),
)


def family_of(tower: Any) -> Family:
    """The family of a tower, or of a configuration. `ValueError` for one of the user's own."""
    for family in FAMILIES:
        if isinstance(tower, family.config | family.module):
            return family
    raise ValueError(
        f"OpenCLIP has no tower like {type(tower).__name__}, so this model has no form in its "
        "format. `eqx.tree_serialise_leaves(path, model)` writes any model."
    )
