"""CLIP in JAX: OpenCLIP's weights and numbers as Equinox modules."""

import importlib
from typing import TYPE_CHECKING, Any

from . import sharding as sharding
from ._clip import CLIP as CLIP
from ._clip import CLIPConfig as CLIPConfig
from ._clip import Tower as Tower
from .checkpoints.convert import to_state_dict as to_state_dict
from .checkpoints.hub import WeightsNotFoundError as WeightsNotFoundError
from .checkpoints.load import create as create
from .checkpoints.load import from_state_dict as from_state_dict
from .checkpoints.load import load as load
from .checkpoints.push_to_hub import push_to_hub as push_to_hub
from .checkpoints.save import save as save
from .images.augment import Augment as Augment
from .images.preprocess import Preprocess as Preprocess
from .inference.clip_inference import CLIPInference as CLIPInference
from .inference.embed import embed_images as embed_images
from .inference.embed import embed_texts as embed_texts
from .inference.zero_shot import zero_shot_classifier as zero_shot_classifier
from .losses.contrastive import clip_loss as clip_loss
from .losses.contrastive import siglip_loss as siglip_loss
from .tokenizers.clip import Tokenizer as Tokenizer
from .tokenizers.clip import tokenize as tokenize
from .towers.convnext import ConvNeXt as ConvNeXt
from .towers.convnext import ConvNeXtConfig as ConvNeXtConfig
from .towers.resnet import ModifiedResNet as ModifiedResNet
from .towers.resnet import ResNetConfig as ResNetConfig
from .towers.text import TextConfig as TextConfig
from .towers.text import TextTransformer as TextTransformer
from .towers.timm_vit import TimmViT as TimmViT
from .towers.timm_vit import TimmViTConfig as TimmViTConfig
from .towers.vit import VisionTransformer as VisionTransformer
from .towers.vit import ViTConfig as ViTConfig
from .zoo.architectures import list_models as list_models
from .zoo.pretrained import list_pretrained as list_pretrained
from .zoo.pretrained import list_pretrained_by_model as list_pretrained_by_model


__version__ = "0.1.0"


if TYPE_CHECKING:
    from . import data as data
    from . import train as train


def __getattr__(name: str) -> Any:
    """`eqx_clip.data` and `eqx_clip.train`, imported when first used: they take half a second."""
    if name in ("data", "train"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
