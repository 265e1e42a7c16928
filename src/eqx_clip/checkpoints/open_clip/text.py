"""OpenCLIP's own text transformers."""

from collections.abc import Mapping
from typing import Any

from ..._checks import short_repr
from ..._types import TextPooling, TextProjection
from ...towers.text import TextConfig
from ..rows.plain import Edits
from ..rows.positions import resize_text_positions
from ..rows.row import Table, nested, renamed, tensor, transposed
from ..rows.sizes import Shapes, TowerSizes
from .naming import Naming
from .options import TRANSFORMER_DEFAULTS, Options
from .transformer import BLOCK, block_sizes, has_quick_gelu, take_activation, written_activation


_DEFAULTS = {
    **TRANSFORMER_DEFAULTS,
    "embed_cls": False,
    "final_ln_after_pool": False,
    "hf_model_name": None,
}
_POOLINGS: Mapping[str, TextPooling] = {
    "argmax": "highest_id",
    "last": "last",
    "eos": "first_id",
}
_EPS = 1e-5

_TABLE = {
    **renamed(
        {
            "token_embedding": "token_embedding.weight",
            "positional_embedding": "positional_embedding",
            "ln_final.weight": "ln_final.weight",
            "ln_final.bias": "ln_final.bias",
        }
    ),
    **nested(BLOCK, "stack.block.", "transformer.resblocks.{i}."),
}
_PROJECTIONS: Mapping[TextProjection, Table] = {
    "matrix": renamed({"proj": "text_projection"}),
    "linear": {
        "proj": transposed("text_projection.weight"),
        "proj_bias": tensor("text_projection.bias"),
    },
    "none": {},
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
    eos_id = options.take("eos_id", 2)  # where OpenCLIP's pooling is another it does not count
    config = TextConfig(
        context_length=options.take("context_length", 77),
        vocab_size=options.take("vocab_size", 49408),
        width=options.take("width", 512),
        depth=options.take("layers", 12),
        num_heads=options.take("heads", 8),
        mlp_ratio=options.take("mlp_ratio", 4.0),
        embed_dim=embed_dim,
        activation=take_activation(options, quick_gelu),
        causal=not options.take_flag("no_causal_mask"),
        pooling=_POOLINGS[pool_type],
        eos_id=eos_id if pool_type == "eos" else None,
        projection=_take_projection(options),
        norm_eps=_take_norm_eps(options),
    )
    options.refuse_others(_DEFAULTS)
    return config


def _take_projection(options: Options) -> TextProjection:
    kind, has_bias = options.take("proj_type", "linear"), options.take_flag("proj_bias")
    if kind not in ("linear", "none"):
        raise ValueError(
            f"`proj_type={short_repr(kind)}` in `text_cfg` is not supported; supported: linear, "
            "none."
        )
    if kind == "none":
        return "none"
    return "linear" if has_bias else "matrix"


def _take_norm_eps(options: Options) -> Any:
    kwargs = options.take("norm_kwargs", None) or {"eps": _EPS}
    if not isinstance(kwargs, Mapping) or set(kwargs) != {"eps"}:
        raise ValueError(
            f"`norm_kwargs={short_repr(kwargs)}` in `text_cfg` is not supported; supported: "
            "{'eps': number}."
        )
    return kwargs["eps"]


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
    if config.eos_id is not None:
        options["eos_id"] = config.eos_id
    if config.projection == "linear":
        options["proj_bias"] = True
    if config.projection == "none":
        options["proj_type"] = "none"
    if config.norm_eps != _EPS:
        options["norm_kwargs"] = {"eps": config.norm_eps}
    return options | written_activation(config)


def _positions(old: TextConfig, new: TextConfig) -> Edits:
    return {"positional_embedding": lambda x: resize_text_positions(x, new.context_length)}


def _sizes(shapes: Shapes) -> TowerSizes:
    (vocab_size, width), (context_length, _) = (
        shapes[name] for name in ("token_embedding.weight", "positional_embedding")
    )
    projection, embed_dim = "none", width
    if "text_projection" in shapes:
        projection, embed_dim = "matrix", shapes["text_projection"][1]
    elif "text_projection.weight" in shapes:
        projection, embed_dim = "linear", shapes["text_projection.weight"][0]
    values = {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "embed_dim": embed_dim,
        "projection": projection,
    }
    return TowerSizes(TextConfig, block_sizes(shapes, "transformer.resblocks") | values)


NAMING = Naming(
    section="text_cfg",
    describes=_describes,
    read=_read,
    write=_write,
    table=lambda config: {**_TABLE, **_PROJECTIONS[config.projection]},
    quick_gelu=has_quick_gelu,
    positions=_positions,
    landmark="token_embedding.weight",
    sizes=_sizes,
)
