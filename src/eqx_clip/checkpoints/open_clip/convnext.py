"""OpenCLIP's ConvNeXts, which are timm's with a head."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..._checks import short_repr
from ...towers.convnext import ConvNeXtConfig
from ..rows.row import Table, nested, renamed
from ..rows.sizes import Shapes, TowerSizes, depth_of
from .naming import Naming
from .options import Options
from .vit import VIT_OPTIONS


class Trunk(NamedTuple):
    """What timm means by the name of a ConvNeXt."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    norm_eps: float = 1e-6


TIMM_TRUNKS: Mapping[str, Trunk] = {
    "convnext_tiny": Trunk((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": Trunk((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": Trunk((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": Trunk((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": Trunk((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "convnext_xxlarge": Trunk((3, 4, 30, 3), (384, 768, 1536, 3072), norm_eps=1e-5),
}

_DEFAULTS = {"timm_proj_bias": False}

_BLOCK = renamed(
    {
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
)
_STAGE = {
    **renamed(
        {
            "downsample.norm.weight": "downsample.0.weight",
            "downsample.norm.bias": "downsample.0.bias",
            "downsample.conv.weight": "downsample.1.weight",
            "downsample.conv.bias": "downsample.1.bias",
        }
    ),
    **nested(_BLOCK, "stack.block.", "blocks.{i}."),
}
_ENDS = renamed(
    {
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
)


def _describes(options: Mapping[str, Any]) -> bool:
    name = options.get("timm_model_name")
    return isinstance(name, str) and name.startswith("convnext")


def _read(options: Options, embed_dim: Any, quick_gelu: bool) -> ConvNeXtConfig:
    # OpenCLIP ignores the transformer's options, and `quick_gelu`, in timm's towers.
    options.leave_aside("layers", "width", "head_width", *VIT_OPTIONS)
    trunk = options.take_timm_model(TIMM_TRUNKS)
    pool = options.take("timm_pool", None)
    if pool not in (None, "", "avg"):  # which is what the others stand for
        raise ValueError(f"`timm_pool={short_repr(pool)}` is not supported; supported: avg.")
    head = options.take("timm_proj", "linear")
    if head not in ("linear", "mlp"):
        raise ValueError(
            f"`timm_proj={short_repr(head)}` is not supported; supported: linear, mlp."
        )
    image_size = options.take_size("image_size", 224)
    options.refuse_others(_DEFAULTS)
    return ConvNeXtConfig(image_size=image_size, embed_dim=embed_dim, head=head, **trunk._asdict())


def _write(config: ConvNeXtConfig) -> dict[str, Any]:
    trunk = Trunk(config.depths, config.widths, config.norm_eps)
    for name, known in TIMM_TRUNKS.items():
        if trunk == known:
            return {
                "timm_model_name": name,
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": config.head,
                "image_size": config.image_size,
            }
    raise ValueError(
        f"timm has no ConvNeXt with depths {trunk.depths}, widths {trunk.widths} and epsilon "
        f"{trunk.norm_eps}, so OpenCLIP cannot build it."
    )


def _table(config: ConvNeXtConfig) -> Table:
    stages = (
        nested(_STAGE, f"stages.{stage}.", f"visual.trunk.stages.{stage}.")
        for stage in range(len(config.depths))
    )
    return _ENDS | {path: row for stage in stages for path, row in stage.items()}


def _sizes(shapes: Shapes) -> TowerSizes:
    stages = [f"visual.trunk.stages.{stage}.blocks" for stage in range(4)]
    head = "linear" if "visual.head.proj.weight" in shapes else "mlp"
    last = "visual.head.proj.weight" if head == "linear" else "visual.head.mlp.fc2.weight"
    values = {
        "depths": tuple(depth_of(shapes, f"{stage}.{{i}}.gamma") for stage in stages),
        "widths": tuple(shapes[f"{stage}.0.gamma"][0] for stage in stages),
        "embed_dim": shapes[last][0],
        "head": head,
    }
    return TowerSizes(ConvNeXtConfig, values)


NAMING = Naming(
    section="vision_cfg",
    describes=_describes,
    read=_read,
    write=_write,
    table=_table,
    landmark="visual.trunk.stem.1.weight",
    sizes=_sizes,
)
