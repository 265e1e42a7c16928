"""OpenCLIP's own vision transformers."""

from collections.abc import Mapping
from typing import Any

from ..._checks import as_count, short_repr
from ..._types import ImagePooling
from ...towers.vit import ViTConfig
from ..rows.plain import Edits
from ..rows.positions import resize_image_positions
from ..rows.row import nested, renamed
from ..rows.sizes import Shapes, TowerSizes, one_size, square
from .naming import Naming
from .options import TIMM_OPTIONS, TRANSFORMER_DEFAULTS, Options
from .transformer import BLOCK, block_sizes, has_quick_gelu, take_activation, written_activation


_DEFAULTS = {
    **TRANSFORMER_DEFAULTS,
    "attentional_pool": False,
    "pos_embed_type": "learnable",
}
# What OpenCLIP does not look at in towers of another kind.
VIT_OPTIONS = (
    *_DEFAULTS,
    "act_kwargs",
    "mlp_ratio",
    "patch_size",
    "no_ln_pre",
    "pool_type",
    "final_ln_after_pool",
)
_POOLINGS: Mapping[str, ImagePooling] = {"tok": "class_token", "avg": "mean_patch"}

_TABLE = {
    **renamed(
        {
            "patch.weight": "visual.conv1.weight",
            "class_embedding": "visual.class_embedding",
            "positional_embedding": "visual.positional_embedding",
            "ln_pre.weight": "visual.ln_pre.weight",
            "ln_pre.bias": "visual.ln_pre.bias",
            "ln_post.weight": "visual.ln_post.weight",
            "ln_post.bias": "visual.ln_post.bias",
            "proj": "visual.proj",
        }
    ),
    **nested(BLOCK, "stack.block.", "visual.transformer.resblocks.{i}."),
}


def _describes(options: Mapping[str, Any]) -> bool:
    return not options.get("timm_model_name") and not isinstance(
        options.get("layers"), list | tuple
    )


def _read(options: Options, embed_dim: Any, quick_gelu: bool) -> ViTConfig:
    width = as_count("width", options.take("width", 768))
    head_width = as_count("head_width", options.take("head_width", 64))
    pool_type = options.take("pool_type", "tok")
    norm_after_pool = options.take_flag("final_ln_after_pool")
    # Of one token the norm is the same before and after.
    if pool_type not in tuple(_POOLINGS) or (pool_type == "avg" and not norm_after_pool):
        raise ValueError(
            f"`pool_type={short_repr(pool_type)}` with `final_ln_after_pool="
            f"{short_repr(norm_after_pool)}` is not supported; supported: 'tok', and 'avg' with "
            "true."
        )
    config = ViTConfig(
        image_size=options.take_size("image_size", 224),
        patch_size=options.take_size("patch_size", 16),
        width=width,
        depth=options.take("layers", 12),
        num_heads=width // head_width,
        mlp_ratio=options.take("mlp_ratio", 4.0),
        embed_dim=embed_dim,
        activation=take_activation(options, quick_gelu),
        pooling=_POOLINGS[pool_type],
        norm_pre=not options.take_flag("no_ln_pre"),
    )
    options.leave_aside(*TIMM_OPTIONS)
    options.refuse_others(_DEFAULTS)
    return config


def _write(config: ViTConfig) -> dict[str, Any]:
    options = {
        "image_size": config.image_size,
        "layers": config.depth,
        "width": config.width,
        "head_width": config.width // config.num_heads,
        "patch_size": config.patch_size,
        "mlp_ratio": config.mlp_ratio,
    }
    if not config.norm_pre:
        options["no_ln_pre"] = True
    if config.pooling == "mean_patch":
        options |= {"pool_type": "avg", "final_ln_after_pool": True}
    return options | written_activation(config)


def _positions(old: ViTConfig, new: ViTConfig) -> Edits:
    return {"visual.positional_embedding": lambda x: resize_image_positions(x, old.grid, new.grid)}


def _sizes(shapes: Shapes) -> TowerSizes:
    tokens, _ = shapes["visual.positional_embedding"]
    values = {
        "patch_size": one_size(*shapes["visual.conv1.weight"][2:]),
        "grid": square(tokens - 1),
        "embed_dim": shapes["visual.proj"][1],
        "norm_pre": "visual.ln_pre.weight" in shapes,
    }
    return TowerSizes(ViTConfig, block_sizes(shapes, "visual.transformer.resblocks") | values)


NAMING = Naming(
    section="vision_cfg",
    describes=_describes,
    read=_read,
    write=_write,
    table=lambda config: _TABLE,
    quick_gelu=has_quick_gelu,
    positions=_positions,
    landmark="visual.class_embedding",
    sizes=_sizes,
)
