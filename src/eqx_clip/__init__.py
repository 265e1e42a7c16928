"""CLIP in JAX: OpenCLIP's weights and numbers as Equinox modules."""

from typing import TYPE_CHECKING, Any

from . import sharding as sharding
from . import train as train
from ._augment import Augment as Augment
from ._clip import CLIP as CLIP
from ._clip import CLIPConfig as CLIPConfig
from ._clip import Tower as Tower
from ._convnext import ConvNeXt as ConvNeXt
from ._convnext import ConvNeXtConfig as ConvNeXtConfig
from ._embed import embed_images as embed_images
from ._embed import embed_texts as embed_texts
from ._hub import WeightsNotFoundError as WeightsNotFoundError
from ._inference import CLIPInference as CLIPInference
from ._load import create as create
from ._load import from_state_dict as from_state_dict
from ._load import load as load
from ._loss import clip_loss as clip_loss
from ._loss import siglip_loss as siglip_loss
from ._models import list_models as list_models
from ._openclip import to_state_dict as to_state_dict
from ._preprocess import Preprocess as Preprocess
from ._registry import list_pretrained as list_pretrained
from ._registry import list_pretrained_by_model as list_pretrained_by_model
from ._save import save as save
from ._text import TextConfig as TextConfig
from ._text import TextTransformer as TextTransformer
from ._tokenizer import Tokenizer as Tokenizer
from ._tokenizer import tokenize as tokenize
from ._vision import VisionTransformer as VisionTransformer
from ._vision import ViTConfig as ViTConfig
from ._zero_shot import zero_shot_classifier as zero_shot_classifier


__version__ = "0.1.0"


if TYPE_CHECKING:
    from . import data as data


def __getattr__(name: str) -> Any:
    """`eqx_clip.data`, imported when it is first used: TFDS takes half a second."""
    if name == "data":
        import eqx_clip.data

        return eqx_clip.data
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
