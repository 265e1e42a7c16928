"""OpenCLIP's residual networks."""

from collections.abc import Mapping
from typing import Any

from ..._checks import as_count
from ...towers.resnet import ResNetConfig
from ..rows.plain import Edits
from ..rows.positions import resize_image_positions
from ..rows.row import nested, renamed
from ..rows.sizes import Shapes, TowerSizes, depth_of, square
from .naming import Naming
from .options import TIMM_OPTIONS, Options
from .vit import VIT_OPTIONS


_NORM = renamed(
    {
        name: name
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
)
_LAYERS = {
    path: row
    for i in (1, 2, 3)
    for path, row in {
        **renamed({f"conv{i}.weight": f"conv{i}.weight"}),
        **nested(_NORM, f"bn{i}.", f"bn{i}."),
    }.items()
}
_DOWNSAMPLE = {
    **renamed({"downsample.conv.weight": "downsample.0.weight"}),
    **nested(_NORM, "downsample.bn.", "downsample.1."),
}
_STAGE = {
    **nested(_LAYERS, "first.", "0."),
    **nested(_DOWNSAMPLE, "first.", "0."),
    **nested(_LAYERS, "stack.block.", "{i}.", first=1),
}
_POOL = renamed(
    {
        "positional_embedding": "positional_embedding",
        **{
            f"{name}_proj.{part}": f"{name}_proj.{part}"
            for name in "qkvc"
            for part in ("weight", "bias")
        },
    }
)
_TABLE = {
    **nested(_LAYERS, "", "visual."),
    **nested(_POOL, "attnpool.", "visual.attnpool."),
    **{
        path: row
        for i in (1, 2, 3, 4)
        for path, row in nested(_STAGE, f"layer{i}.", f"visual.layer{i}.").items()
    },
}
_POSITIONS = "visual.attnpool.positional_embedding"


def _describes(options: Mapping[str, Any]) -> bool:
    return not options.get("timm_model_name") and isinstance(options.get("layers"), list | tuple)


def _read(options: Options, embed_dim: Any, quick_gelu: bool) -> ResNetConfig:
    width = as_count("width", options.take("width", 768))
    head_width = as_count("head_width", options.take("head_width", 64))
    config = ResNetConfig(
        image_size=options.take_size("image_size", 224),
        depths=tuple(options.take("layers", ())),
        width=width,
        embed_dim=embed_dim,
        num_heads=width * 32 // head_width,
    )
    options.leave_aside(*VIT_OPTIONS, *TIMM_OPTIONS)
    options.refuse_others({})
    return config


def _write(config: ResNetConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "layers": list(config.depths),
        "width": config.width,
        "head_width": config.width * 32 // config.num_heads,
        "patch_size": None,
    }


def _positions(old: ResNetConfig, new: ResNetConfig) -> Edits:
    return {_POSITIONS: lambda x: resize_image_positions(x, old.grid, new.grid)}


def _sizes(shapes: Shapes) -> TowerSizes:
    stages = [f"visual.layer{stage}.{{i}}.conv1.weight" for stage in (1, 2, 3, 4)]
    values = {
        "depths": tuple(depth_of(shapes, stage) for stage in stages),
        "width": shapes["visual.layer1.0.conv1.weight"][0],
        "grid": square(shapes[_POSITIONS][0] - 1),
        "embed_dim": shapes["visual.attnpool.c_proj.weight"][0],
    }
    return TowerSizes(ResNetConfig, values)


NAMING = Naming(
    section="vision_cfg",
    describes=_describes,
    read=_read,
    write=_write,
    table=lambda config: _TABLE,
    positions=_positions,
    landmark="visual.attnpool.q_proj.weight",
    sizes=_sizes,
)
