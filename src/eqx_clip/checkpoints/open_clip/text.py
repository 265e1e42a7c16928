"""OpenCLIP's own text transformers."""

from collections.abc import Mapping
from typing import Any

from ..._checks import short_repr
from ..._types import TextPooling
from ...towers.text import TextConfig
from ..rows.positions import resize_text_positions
from ..rows.row import nested, renamed
from .naming import Edit, Naming
from .options import TRANSFORMER_DEFAULTS, Options
from .transformer import BLOCK


_DEFAULTS = {
    **TRANSFORMER_DEFAULTS,
    "embed_cls": False,
    "final_ln_after_pool": False,
    "proj_bias": False,
    "proj_type": "linear",
    "hf_model_name": None,
}
_POOLINGS: Mapping[str, TextPooling] = {"argmax": "highest_id", "last": "last"}

_TABLE = {
    **renamed(
        {
            "token_embedding": "token_embedding.weight",
            "positional_embedding": "positional_embedding",
            "ln_final.weight": "ln_final.weight",
            "ln_final.bias": "ln_final.bias",
            "proj": "text_projection",
        }
    ),
    **nested(BLOCK, "stack.block.", "transformer.resblocks.{i}."),
}


def _describes(options: Mapping[str, Any]) -> bool:
    return not options.get("hf_model_name")


def _read(options: Options, embed_dim: Any, quick_gelu: bool) -> TextConfig:
    pool_type = options.take("pool_type", "argmax")
    if pool_type not in tuple(_POOLINGS):
        raise ValueError(
            f"`pool_type={short_repr(pool_type)}` in `text_cfg` is not supported; supported: "
            f"{', '.join(_POOLINGS)}."
        )
    config = TextConfig(
        context_length=options.take("context_length", 77),
        vocab_size=options.take("vocab_size", 49408),
        width=options.take("width", 512),
        depth=options.take("layers", 12),
        num_heads=options.take("heads", 8),
        mlp_ratio=options.take("mlp_ratio", 4.0),
        embed_dim=embed_dim,
        activation="quick_gelu" if quick_gelu else "gelu",
        causal=not options.take_flag("no_causal_mask"),
        pooling=_POOLINGS[pool_type],
    )
    options.refuse_others(_DEFAULTS)
    return config


def _write(config: TextConfig) -> dict[str, Any]:
    options = {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "width": config.width,
        "heads": config.num_heads,
        "layers": config.depth,
        "mlp_ratio": config.mlp_ratio,
    }
    if not config.causal:
        options["no_causal_mask"] = True
    if config.pooling != "highest_id":
        options["pool_type"] = {v: k for k, v in _POOLINGS.items()}[config.pooling]
    return options


def _positions(old: TextConfig, new: TextConfig) -> Mapping[str, Edit]:
    return {"positional_embedding": lambda x: resize_text_positions(x, new.context_length)}


NAMING = Naming(
    section="text_cfg",
    describes=_describes,
    read=_read,
    write=_write,
    table=lambda config: _TABLE,
    positions=_positions,
    landmark="token_embedding.weight",
)
