"""OpenCLIP's names of tensors, as tables."""

from ..._clip import CLIP
from ...towers.convnext import ConvNeXt
from ...towers.text import TextTransformer
from ...towers.vit import VisionTransformer
from .config import unknown_tower


# Our path to a leaf -> OpenCLIP's name of the tensor. `{i}` counts the blocks of a stack, which
# are one tensor each for OpenCLIP and one leaf for us.
_BLOCK = {
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.out.weight": "attn.out_proj.weight",
    "attn.out.bias": "attn.out_proj.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.up.weight": "mlp.c_fc.weight",
    "mlp.up.bias": "mlp.c_fc.bias",
    "mlp.down.weight": "mlp.c_proj.weight",
    "mlp.down.bias": "mlp.c_proj.bias",
}
_VISION = {
    "patch.weight": "visual.conv1.weight",
    "class_embedding": "visual.class_embedding",
    "positional_embedding": "visual.positional_embedding",
    "ln_pre.weight": "visual.ln_pre.weight",
    "ln_pre.bias": "visual.ln_pre.bias",
    **{
        f"stack.block.{ours}": f"visual.transformer.resblocks.{{i}}.{theirs}"
        for ours, theirs in _BLOCK.items()
    },
    "ln_post.weight": "visual.ln_post.weight",
    "ln_post.bias": "visual.ln_post.bias",
    "proj": "visual.proj",
}
_TEXT = {
    "token_embedding": "token_embedding.weight",
    "positional_embedding": "positional_embedding",
    **{
        f"stack.block.{ours}": f"transformer.resblocks.{{i}}.{theirs}"
        for ours, theirs in _BLOCK.items()
    },
    "ln_final.weight": "ln_final.weight",
    "ln_final.bias": "ln_final.bias",
    "proj": "text_projection",
}
_CONVNEXT_BLOCK = {
    "conv.weight": "conv_dw.weight",
    "conv.bias": "conv_dw.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "mlp.up.weight": "mlp.fc1.weight",
    "mlp.up.bias": "mlp.fc1.bias",
    "mlp.down.weight": "mlp.fc2.weight",
    "mlp.down.bias": "mlp.fc2.bias",
    "gamma": "gamma",
}
_CONVNEXT_STAGE = {
    "downsample.norm.weight": "downsample.0.weight",
    "downsample.norm.bias": "downsample.0.bias",
    "downsample.conv.weight": "downsample.1.weight",
    "downsample.conv.bias": "downsample.1.bias",
    **{f"stack.block.{ours}": f"blocks.{{i}}.{theirs}" for ours, theirs in _CONVNEXT_BLOCK.items()},
}
_CONVNEXT = {
    "stem.weight": "visual.trunk.stem.0.weight",
    "stem.bias": "visual.trunk.stem.0.bias",
    "stem_norm.weight": "visual.trunk.stem.1.weight",
    "stem_norm.bias": "visual.trunk.stem.1.bias",
    "norm.weight": "visual.trunk.head.norm.weight",
    "norm.bias": "visual.trunk.head.norm.bias",
    "head.weight": "visual.head.proj.weight",
    "head.up.weight": "visual.head.mlp.fc1.weight",
    "head.up.bias": "visual.head.mlp.fc1.bias",
    "head.down.weight": "visual.head.mlp.fc2.weight",
}


def _convnext_names(tower: ConvNeXt) -> dict[str, str]:
    stages = {
        f"stages.{stage}.{ours}": f"visual.trunk.stages.{stage}.{theirs}"
        for stage in range(len(tower.stages))
        for ours, theirs in _CONVNEXT_STAGE.items()
    }
    return {**_CONVNEXT, **stages}


def names(model: CLIP) -> dict[str, str]:
    """Our path -> OpenCLIP's name, for (at least) every leaf of `model`.

    Raises `ValueError` for towers that OpenCLIP does not know.
    """
    image, text = model.image, model.text
    if isinstance(image, VisionTransformer):
        image_names = _VISION
    elif isinstance(image, ConvNeXt):
        image_names = _convnext_names(image)
    else:
        raise unknown_tower(image)
    if not isinstance(text, TextTransformer):
        raise unknown_tower(text)
    return {
        "logit_scale": "logit_scale",
        "logit_bias": "logit_bias",
        **{f"image.{ours}": theirs for ours, theirs in image_names.items()},
        **{f"text.{ours}": theirs for ours, theirs in _TEXT.items()},
    }
