"""OpenCLIP's models, to compare with: the same weights on both sides."""

import copy

import numpy as np
import safetensors.torch
from helpers import SMALL_TIMM_VITS
from oracle import open_clip, timm, torch

import eqx_clip


def _tell_timm(name, trunk):
    """Registers a small vision transformer as timm's own `vit_base_patch16_siglip_224` is."""
    sizes = trunk._asdict()
    sizes["img_size"], sizes["embed_dim"] = sizes.pop("image_size"), sizes.pop("width")
    sizes["act_layer"] = sizes.pop("activation")

    def build(pretrained=False, **kwargs):
        kwargs = {"class_token": False, "global_pool": "map", **sizes, **kwargs}
        return timm.models.vision_transformer._create_vision_transformer(
            name, pretrained=pretrained, **kwargs
        )

    build.__name__ = name
    timm.models.register_model(build)


for _name, _trunk in SMALL_TIMM_VITS.items():
    _tell_timm(_name, _trunk)


def oracle_model(config, *, dtype=torch.float32, seed=0, spread=0.05):
    """OpenCLIP's model of a configuration in its format, with noise on every parameter and buffer.

    Random weights alone would hide errors: a bias of zeros, a gain of ones, ConvNeXt's gamma 1e-6.
    """
    config = copy.deepcopy(config)
    model_class = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(seed)
    model = model_class(**config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.random_(1000)
    return model


def save_oracle(model, path):
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def state_dict(model):
    """The oracle's state dict as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def oracle_features(model, images, tokens):
    """Unit image features, unit text features and logits of two batches."""
    dtype = model.logit_scale.dtype
    images, tokens = torch.tensor(np.asarray(images)).to(dtype), torch.tensor(tokens).long()
    with torch.no_grad():
        image_features = model.encode_image(images, normalize=True)
        text_features = model.encode_text(tokens, normalize=True)
        logits, _ = model.get_logits(images, tokens)
    return image_features.numpy(), text_features.numpy(), logits.numpy()


def oracle_config(name, *, layers=None):
    """OpenCLIP's own configuration of an architecture, of `layers` blocks if a number is given."""
    if name == "vit-nano-patch32":
        config = nano_config()
    else:
        config = open_clip.get_model_config(OPEN_CLIP_NAMES.get(name, name))
    if layers is not None:
        for tower in (config["vision_cfg"], config["text_cfg"]):
            if "layers" in tower:
                is_resnet = isinstance(tower["layers"], list)
                tower["layers"] = [1, layers, 1, 1] if is_resnet else layers
    return config


def nano_config():
    """The predecessor's smallest model, which OpenCLIP does not list."""
    tower = {"width": 64, "layers": 2}
    return {
        "embed_dim": 64,
        "vision_cfg": {**tower, "image_size": 224, "head_width": 16, "patch_size": 32},
        "text_cfg": {**tower, "context_length": 77, "vocab_size": 49408, "heads": 4},
    }


OPEN_CLIP_NAMES = {
    "vit-small-patch32": "ViT-S-32",
    "vit-small-patch16": "ViT-S-16",
    "vit-base-patch32": "ViT-B-32",
    "vit-base-patch16": "ViT-B-16",
    "vit-large-patch16": "ViT-L-16",
    "vit-large-patch14": "ViT-L-14",
    "vit-huge-patch16": "ViT-H-16",
    "vit-huge-patch14": "ViT-H-14",
    "convnext-base": "convnext_base",
    "convnext-base-w": "convnext_base_w",
    "convnext-large-d": "convnext_large_d",
}

# Of few random texts all logits may be near zero, where nothing but rounding would be compared.
TEXTS = ["a photo of a cat", "", "two dogs, " * 60, "42", "a red bus", "snow", "?", "an old map"]


def batch_for(model: eqx_clip.CLIP, images: int = 2):
    from helpers import images_for

    return images_for(model, images), tokens_for(model)


def tokens_for(model: eqx_clip.CLIP):
    """Rows of ids; random ones where the model's tokenizer is not built."""
    if isinstance(model.tokenizer, eqx_clip.Tokenizer):
        return model.tokenize(TEXTS)
    size = (len(TEXTS), model.text.config.context_length)
    return np.random.default_rng(0).integers(0, model.text.config.vocab_size, size, np.int32)
