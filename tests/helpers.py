"""Small models and what several tests ask of models."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_clip
from eqx_clip import CLIPConfig
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.open_clip.timm_vit import TIMM_VITS, Trunk


# A model of each kind of tower in OpenCLIP's format, small but with unequal sizes everywhere.
TINY_VIT = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": [48, 32],
        "layers": 3,
        "width": 40,
        "head_width": 10,
        "patch_size": 8,
        "mlp_ratio": 3.3,
    },
    "text_cfg": {
        "context_length": 13,
        "vocab_size": 49408,
        "width": 36,
        "heads": 3,
        "layers": 2,
        "mlp_ratio": 2.5,
    },
}
TINY_CONVNEXT = {
    "embed_dim": 24,
    "vision_cfg": {
        "timm_model_name": "convnext_tiny",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "mlp",
        "timm_drop": 0.0,
        "timm_drop_path": 0.1,
        "image_size": 64,
    },
    "text_cfg": TINY_VIT["text_cfg"],
}
TINY_RESNET = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": [2, 1, 3, 2], "width": 6, "head_width": 48},
    "text_cfg": TINY_VIT["text_cfg"],
}
TINY_CLIPA = {
    "embed_dim": 24,
    "vision_cfg": {
        **TINY_VIT["vision_cfg"],
        "no_ln_pre": True,
        "pool_type": "avg",
        "final_ln_after_pool": True,
    },
    "text_cfg": {
        **TINY_VIT["text_cfg"],
        "vocab_size": 500,
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        "pool_type": "last",
        "no_causal_mask": True,
    },
}
# timm knows its vision transformers by name only, so small ones have names of their own here, with
# each of the two GELUs; `parity/models.py` tells timm.
SMALL_TIMM_VITS = {
    f"vit_{name}_siglip{'_tanh' if activation == 'gelu_tanh' else ''}": Trunk(
        *sizes, activation=activation
    )
    for name, sizes in {
        "tiny_patch8": (48, 8, 40, 3, 4, 3.3),
        "thin_patch14": (60, 14, 24, 2, 3, 4.0),  # of which four pixels are not seen
        "wide_patch16": (32, 16, 96, 1, 2, 1.7),
    }.items()
    for activation in ("gelu", "gelu_tanh")
}
TIMM_VITS.update(SMALL_TIMM_VITS)
TINY_SIGLIP = {
    "embed_dim": 40,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 48,
        "timm_model_name": "vit_tiny_patch8_siglip",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        **TINY_VIT["text_cfg"],
        "vocab_size": 500,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
TINY_SIGLIP2 = {
    **TINY_SIGLIP,
    "vision_cfg": {**TINY_SIGLIP["vision_cfg"], "timm_model_name": "vit_tiny_patch8_siglip_tanh"},
    "text_cfg": {**TINY_SIGLIP["text_cfg"], "act_kwargs": {"approximate": "tanh"}},
}
TINY_WORLDWIDE = {
    **TINY_VIT,
    "text_cfg": {
        **TINY_VIT["text_cfg"],
        "vocab_size": 500,
        "hf_tokenizer_name": "facebook/xlm-v-base",
        "pool_type": "eos",
        "eos_id": 2,
    },
}


def smallest_configs() -> dict[str, CLIPConfig]:
    """One for each kind of image tower, to compile in no time, whose sizes four devices divide."""
    towers = {
        "vit": eqx_clip.ViTConfig(
            image_size=16, patch_size=8, width=16, depth=2, num_heads=2, embed_dim=12
        ),
        "convnext": eqx_clip.ConvNeXtConfig(
            image_size=16, depths=(1, 1), widths=(8, 16), embed_dim=12
        ),
    }
    text = eqx_clip.TextConfig(
        context_length=8, vocab_size=64, width=16, depth=2, num_heads=2, embed_dim=12
    )
    preprocess = eqx_clip.Preprocess(image_size=16)
    return {
        name: CLIPConfig(image=image, text=text, preprocess=preprocess)
        for name, image in towers.items()
    }


def random_model(config: CLIPConfig, seed: int = 0) -> eqx_clip.CLIP:
    """A model with noise on every leaf: no zero bias, unit gain or small gamma hides an error.

    NumPy makes the noise, since JAX takes seconds to compile its own for so many shapes.
    """
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 1000, leaf.shape, np.int32))
        if name.endswith("running_var"):
            return jnp.asarray(rng.uniform(0.5, 2, leaf.shape).astype(np.float32))
        gain = name.endswith(("ln_1.weight", "ln_2.weight", "norm.weight")) or ".bn" in name
        noise = 0.05 * rng.standard_normal(leaf.shape, dtype=np.float32)
        return jnp.asarray(noise + 1 if gain and name.endswith("weight") else noise)

    skeleton = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
    model = jax.tree_util.tree_map_with_path(fill, skeleton)
    return eqx.tree_at(lambda model: model.logit_scale, model, jnp.asarray(2.7, jnp.float32))


def tiny(config=None, *, seed: int = 0) -> eqx_clip.CLIP:
    """A small random model of a configuration in OpenCLIP's format."""
    return random_model(config_from_open_clip(TINY_VIT if config is None else config), seed)


def images_for(model: eqx_clip.CLIP, batch: int, seed: int = 0) -> np.ndarray:
    """Random preprocessed images, float32 (batch, 3, height, width)."""
    size = (model.preprocess.height, model.preprocess.width)
    return np.random.default_rng(seed).standard_normal((batch, 3, *size), dtype=np.float32)


# Optimised as users have it, unlike the tests' other programs: rounding is compared with others'.
@eqx.filter_jit(compiler_options={"xla_backend_optimization_level": 3})
def features(model: eqx_clip.CLIP, images, tokens):
    """Unit image features, unit text features and logits of two batches."""
    image_features = jax.vmap(model.encode_image)(images)
    text_features = jax.vmap(model.encode_text)(tokens)
    return image_features, text_features, model.logits(image_features, text_features)


def relative_error(ours, theirs) -> float:
    """The largest difference over the largest value, of the worst example (row)."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    return float((np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)).max())


def bitwise_equal(a, b) -> bool:
    """Equal structures, dtypes, and bits of every leaf."""
    same = jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return same and all(x.dtype == y.dtype and bool(jnp.all(x == y)) for x, y in pairs)


class PixelMeans(eqx.Module):
    """An image tower that compiles in no time."""

    proj: jax.Array
    embed_dim: int = eqx.field(static=True, default=6)

    def __call__(self, image):
        return image.mean((1, 2)) @ self.proj


class IdSums(eqx.Module):
    """A text tower that depends on every position, padding included, and says nothing of it."""

    proj: jax.Array
    embed_dim: int = eqx.field(static=True, default=6)

    def __call__(self, tokens):
        return (tokens / 1e4 + 1) @ self.proj[: len(tokens)] / len(tokens)


def quick_model(**towers):
    noise = np.random.default_rng(0).standard_normal((80, 6), np.float32)
    towers = {
        "image": PixelMeans(jnp.asarray(noise[:3])),
        "text": IdSums(jnp.asarray(noise)),
    } | towers
    return eqx_clip.CLIP(**towers, preprocess=eqx_clip.Preprocess(image_size=8))
