"""The known SigLIPs, as data."""

from collections.abc import Mapping
from typing import Any

from .._clip import CLIPConfig
from .._types import Activation, TextProjection
from ..checkpoints.open_clip.timm_vit import TIMM_VITS
from ..images.preprocess import Preprocess
from ..tokenizers.json_file import JSONTokenizer
from ..towers.text import TextConfig
from ..towers.timm_vit import TimmViTConfig
from .statistics import STATISTICS


# Sizes of text transformers.
_BASE = {"width": 768, "depth": 12, "num_heads": 12}
_LARGE = {"width": 1024, "depth": 24, "num_heads": 16}
_SO400M = {"width": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362}

_C4 = "timm/ViT-B-16-SigLIP"  # whose tokenizer all English ones have
_I18N = "timm/ViT-B-16-SigLIP-i18n-256"


def _siglip(
    trunk: str,
    text: Mapping[str, Any],
    *,
    tokenizer: str = _C4,
    vocab_size: int = 32000,
    context_length: int = 64,
    activation: Activation = "gelu",
    projection: TextProjection = "linear",
) -> CLIPConfig:
    """A SigLIP (Zhai et al. 2023, arXiv:2303.15343): timm's vision transformer of this name, and a
    text transformer in which every token sees every other."""
    image = TimmViTConfig(**TIMM_VITS[trunk]._asdict())
    return CLIPConfig(
        image=image,
        text=TextConfig(
            **text,
            context_length=context_length,
            vocab_size=vocab_size,
            embed_dim=image.embed_dim,
            activation=activation,
            causal=False,
            pooling="last",
            projection=projection,
            norm_eps=1e-6,
        ),
        preprocess=Preprocess(
            image_size=image.image_size, resize_mode="squash", **STATISTICS["half"]
        ),
        tokenizer=JSONTokenizer(tokenizer, context_length, clean="canonicalize"),
        init_logit_bias=-10,
    )


def _siglip2(trunk: str, text: Mapping[str, Any], name: str) -> CLIPConfig:
    """A SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786), whose tokenizer is Gemma's."""
    return _siglip(trunk, text, tokenizer=f"timm/{name}", vocab_size=256000, activation="gelu_tanh")


SIGLIP: Mapping[str, CLIPConfig] = {
    "ViT-B-16-SigLIP": _siglip("vit_base_patch16_siglip_224", _BASE),
    "ViT-B-16-SigLIP-256": _siglip("vit_base_patch16_siglip_256", _BASE),
    "ViT-B-16-SigLIP-i18n-256": _siglip(
        "vit_base_patch16_siglip_256", _BASE, tokenizer=_I18N, vocab_size=250000
    ),
    "ViT-B-16-SigLIP-384": _siglip("vit_base_patch16_siglip_384", _BASE),
    "ViT-B-16-SigLIP-512": _siglip("vit_base_patch16_siglip_512", _BASE),
    "ViT-L-16-SigLIP-256": _siglip("vit_large_patch16_siglip_256", _LARGE),
    "ViT-L-16-SigLIP-384": _siglip("vit_large_patch16_siglip_384", _LARGE),
    "ViT-SO400M-14-SigLIP": _siglip("vit_so400m_patch14_siglip_224", _SO400M, context_length=16),
    "ViT-SO400M-16-SigLIP-i18n-256": _siglip(
        "vit_so400m_patch16_siglip_256",
        _SO400M,
        tokenizer=_I18N,
        vocab_size=250000,
        projection="none",
    ),
    "ViT-SO400M-14-SigLIP-378": _siglip("vit_so400m_patch14_siglip_378", _SO400M),
    "ViT-SO400M-14-SigLIP-384": _siglip("vit_so400m_patch14_siglip_384", _SO400M),
    **{
        name: _siglip2(trunk, text, name)
        for name, trunk, text in (
            ("ViT-B-32-SigLIP2-256", "vit_base_patch32_siglip_256", _BASE),
            ("ViT-B-16-SigLIP2", "vit_base_patch16_siglip_224", _BASE),
            ("ViT-B-16-SigLIP2-256", "vit_base_patch16_siglip_256", _BASE),
            ("ViT-B-16-SigLIP2-384", "vit_base_patch16_siglip_384", _BASE),
            ("ViT-B-16-SigLIP2-512", "vit_base_patch16_siglip_512", _BASE),
            ("ViT-L-16-SigLIP2-256", "vit_large_patch16_siglip_256", _LARGE),
            ("ViT-L-16-SigLIP2-384", "vit_large_patch16_siglip_384", _LARGE),
            ("ViT-L-16-SigLIP2-512", "vit_large_patch16_siglip_512", _LARGE),
            ("ViT-SO400M-14-SigLIP2", "vit_so400m_patch14_siglip_224", _SO400M),
            ("ViT-SO400M-14-SigLIP2-378", "vit_so400m_patch14_siglip_378", _SO400M),
            ("ViT-SO400M-16-SigLIP2-256", "vit_so400m_patch16_siglip_256", _SO400M),
            ("ViT-SO400M-16-SigLIP2-384", "vit_so400m_patch16_siglip_384", _SO400M),
            ("ViT-SO400M-16-SigLIP2-512", "vit_so400m_patch16_siglip_512", _SO400M),
            ("ViT-gopt-16-SigLIP2-256", "vit_giantopt_patch16_siglip_256", _SO400M),
            ("ViT-gopt-16-SigLIP2-384", "vit_giantopt_patch16_siglip_384", _SO400M),
        )
    },
}
