"""What OpenCLIP's own transformers of images and of texts have in common in its format."""

from typing import Any

from ..._checks import short_repr
from ..._types import Activation
from ..rows.row import renamed
from ..rows.sizes import Shapes, depth_of
from .options import Options


BLOCK = renamed(
    {
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
)


def block_sizes(shapes: Shapes, blocks: str) -> dict[str, int]:
    """The sizes of a stack of blocks."""
    mlp_width, width = shapes[f"{blocks}.0.mlp.c_fc.weight"]
    depth = depth_of(shapes, f"{blocks}.{{i}}.mlp.c_fc.weight")
    return {"width": width, "depth": depth, "mlp_width": mlp_width}


def take_activation(options: Options, quick_gelu: bool) -> Activation:
    """The activation that the option `act_kwargs` chooses, what PyTorch's GELU is given.

    `ValueError` for what it does not take; the quick GELU takes nothing.
    """
    kwargs = options.take("act_kwargs", None) or {}
    if not kwargs:
        return "quick_gelu" if quick_gelu else "gelu"
    if not quick_gelu and kwargs == {"approximate": "none"}:
        return "gelu"
    if not quick_gelu and kwargs == {"approximate": "tanh"}:
        return "gelu_tanh"
    raise ValueError(
        f"`act_kwargs={short_repr(kwargs)}` in `{options.name}` is not supported"
        f"{' with `quick_gelu`' if quick_gelu else ''}; supported: {{'approximate': 'tanh'}}."
    )


def written_activation(config: Any) -> dict[str, Any]:
    """The options of a configuration's activation; the quick GELU is said of the whole model."""
    return {"act_kwargs": {"approximate": "tanh"}} if config.activation == "gelu_tanh" else {}


def has_quick_gelu(config: Any) -> bool:
    return config.activation == "quick_gelu"
