"""OpenCLIP's towers of SigLIP, which are timm's vision transformers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..._checks import short_repr
from ..._types import Activation
from ...towers.timm_vit import TimmViTConfig
from ..rows.plain import Edits
from ..rows.positions import resize_image_positions
from ..rows.row import nested, renamed, with_axis
from ..rows.sizes import Shapes, TowerSizes, depth_of, one_size, square
from .naming import Naming
from .options import Options
from .vit import VIT_OPTIONS


class Trunk(NamedTuple):
    """What timm means by the name of a vision transformer, of square images and patches."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"


_BASE, _LARGE, _GIANT_OPT = (768, 12, 12), (1024, 24, 16), (1536, 40, 16)
_SO400M = (1152, 27, 16, 3.7362)

# By timm's names, and which of its two GELUs each has.
TIMM_VITS: dict[str, Trunk] = {
    "vit_base_patch32_siglip_256": Trunk(256, 32, *_BASE, activation="gelu_tanh"),
    "vit_base_patch16_siglip_224": Trunk(224, 16, *_BASE),
    "vit_base_patch16_siglip_256": Trunk(256, 16, *_BASE),
    "vit_base_patch16_siglip_384": Trunk(384, 16, *_BASE),
    "vit_base_patch16_siglip_512": Trunk(512, 16, *_BASE),
    "vit_large_patch16_siglip_256": Trunk(256, 16, *_LARGE),
    "vit_large_patch16_siglip_384": Trunk(384, 16, *_LARGE),
    "vit_large_patch16_siglip_512": Trunk(512, 16, *_LARGE, activation="gelu_tanh"),
    "vit_so400m_patch14_siglip_224": Trunk(224, 14, *_SO400M),
    "vit_so400m_patch14_siglip_378": Trunk(378, 14, *_SO400M),
    "vit_so400m_patch14_siglip_384": Trunk(384, 14, *_SO400M),
    "vit_so400m_patch16_siglip_256": Trunk(256, 16, *_SO400M, activation="gelu_tanh"),
    "vit_so400m_patch16_siglip_384": Trunk(384, 16, *_SO400M, activation="gelu_tanh"),
    "vit_so400m_patch16_siglip_512": Trunk(512, 16, *_SO400M, activation="gelu_tanh"),
    "vit_giantopt_patch16_siglip_256": Trunk(256, 16, *_GIANT_OPT, activation="gelu_tanh"),
    "vit_giantopt_patch16_siglip_384": Trunk(384, 16, *_GIANT_OPT, activation="gelu_tanh"),
}

_BLOCK = renamed(
    {
        "ln_1.weight": "norm1.weight",
        "ln_1.bias": "norm1.bias",
        "attn.qkv.weight": "attn.qkv.weight",
        "attn.qkv.bias": "attn.qkv.bias",
        "attn.out.weight": "attn.proj.weight",
        "attn.out.bias": "attn.proj.bias",
        "ln_2.weight": "norm2.weight",
        "ln_2.bias": "norm2.bias",
        "mlp.up.weight": "mlp.fc1.weight",
        "mlp.up.bias": "mlp.fc1.bias",
        "mlp.down.weight": "mlp.fc2.weight",
        "mlp.down.bias": "mlp.fc2.bias",
    }
)
_HEAD = {
    "latent": with_axis("latent"),
    **renamed(
        {
            "q.weight": "q.weight",
            "q.bias": "q.bias",
            "kv.weight": "kv.weight",
            "kv.bias": "kv.bias",
            "proj.weight": "proj.weight",
            "proj.bias": "proj.bias",
            "norm.weight": "norm.weight",
            "norm.bias": "norm.bias",
            "mlp.up.weight": "mlp.fc1.weight",
            "mlp.up.bias": "mlp.fc1.bias",
            "mlp.down.weight": "mlp.fc2.weight",
            "mlp.down.bias": "mlp.fc2.bias",
        }
    ),
}
_TRUNK = {
    **renamed(
        {
            "patch.weight": "patch_embed.proj.weight",
            "patch.bias": "patch_embed.proj.bias",
            "ln_post.weight": "norm.weight",
            "ln_post.bias": "norm.bias",
        }
    ),
    "positional_embedding": with_axis("pos_embed"),
    **nested(_BLOCK, "stack.block.", "blocks.{i}."),
    **nested(_HEAD, "map_head.", "attn_pool."),
}
_TABLE = nested(_TRUNK, "", "visual.trunk.")


def _describes(options: Mapping[str, Any]) -> bool:
    name = options.get("timm_model_name")
    return isinstance(name, str) and name.startswith("vit_")


def _read(options: Options, embed_dim: Any, quick_gelu: bool) -> TimmViTConfig:
    # OpenCLIP ignores the transformer's options, and `quick_gelu`, in timm's towers.
    options.leave_aside("layers", "width", "head_width", "timm_proj_bias", *VIT_OPTIONS)
    trunk = options.take_timm_model(TIMM_VITS)
    pool, head = options.take("timm_pool", "avg"), options.take("timm_proj", "linear")
    if (pool, head) != ("map", "none"):
        raise ValueError(
            f"`timm_pool={short_repr(pool)}` with `timm_proj={short_repr(head)}` is not supported "
            "for timm's vision transformers; supported: 'map' with 'none'."
        )
    image_size = options.take_size("image_size", 224)
    options.refuse_others({})
    config = TimmViTConfig(**{**trunk._asdict(), "image_size": image_size})
    if config.image_size != trunk.image_size or embed_dim != config.embed_dim:
        raise ValueError(
            f"timm's model is one of images of {trunk.image_size} pixels and of {config.embed_dim} "
            f"numbers; got `image_size={short_repr(image_size)}` and "
            f"`embed_dim={short_repr(embed_dim)}`. `load(..., image_size=...)` resizes a model."
        )
    return config


def _write(config: TimmViTConfig) -> dict[str, Any]:
    for name, trunk in TIMM_VITS.items():
        if TimmViTConfig(**trunk._asdict()) == config:
            return {
                "timm_model_name": name,
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
                "image_size": config.image_size,
            }
    raise ValueError(
        f"timm has no vision transformer of SigLIP's with "
        f"{dataclasses.asdict(config)}, so OpenCLIP cannot build it. "
        "`eqx.tree_serialise_leaves(path, model)` writes any model."
    )


def _positions(old: TimmViTConfig, new: TimmViTConfig) -> Edits:
    def resize(positions: np.ndarray) -> np.ndarray:
        if positions.ndim != 3:
            return positions  # for the comparison of shapes, which names the tensor
        return resize_image_positions(positions[0], old.grid, new.grid, class_tokens=0)[None]

    return {"visual.trunk.pos_embed": resize}


def _sizes(shapes: Shapes) -> TowerSizes:
    width, _, *patch = shapes["visual.trunk.patch_embed.proj.weight"]
    values = {
        "patch_size": one_size(*patch),
        "grid": square(shapes["visual.trunk.pos_embed"][1]),
        "width": width,
        "depth": depth_of(shapes, "visual.trunk.blocks.{i}.norm1.weight"),
        "mlp_width": shapes["visual.trunk.blocks.0.mlp.fc1.weight"][0],
    }
    return TowerSizes(TimmViTConfig, values)


NAMING = Naming(
    section="vision_cfg",
    describes=_describes,
    read=_read,
    write=_write,
    table=lambda config: _TABLE,
    positions=_positions,
    landmark="visual.trunk.attn_pool.latent",
    sizes=_sizes,
)
