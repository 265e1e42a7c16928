"""The names that transformers gives the tensors of its models of images and texts."""

from collections.abc import Mapping
from typing import Any

from ..rows.plain import Edits, PlainTensors
from ..rows.row import Row, Table, joined, nested, renamed


POSITIONS = (
    "vision_model.embeddings.position_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
)
# Numbers from 0 on, which releases before 4.31 saved.
_COUNTERS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")

_BLOCK: dict[str, Row] = {
    **renamed(
        {
            "ln_1.weight": "layer_norm1.weight",
            "ln_1.bias": "layer_norm1.bias",
            "attn.out.weight": "self_attn.out_proj.weight",
            "attn.out.bias": "self_attn.out_proj.bias",
            "ln_2.weight": "layer_norm2.weight",
            "ln_2.bias": "layer_norm2.bias",
            "mlp.up.weight": "mlp.fc1.weight",
            "mlp.up.bias": "mlp.fc1.bias",
            "mlp.down.weight": "mlp.fc2.weight",
            "mlp.down.bias": "mlp.fc2.bias",
        }
    ),
    **{
        f"attn.qkv.{kind}": joined(*(f"self_attn.{name}_proj.{kind}" for name in "qkv"))
        for kind in ("weight", "bias")
    },
}

TABLE: Table = {
    **renamed(
        {
            "image.patch.weight": "vision_model.embeddings.patch_embedding.weight",
            "image.positional_embedding": POSITIONS[0],
            "image.ln_post.weight": "vision_model.post_layernorm.weight",
            "image.ln_post.bias": "vision_model.post_layernorm.bias",
            "text.token_embedding": "text_model.embeddings.token_embedding.weight",
            "text.positional_embedding": POSITIONS[1],
            "text.ln_final.weight": "text_model.final_layer_norm.weight",
            "text.ln_final.bias": "text_model.final_layer_norm.bias",
        }
    ),
    **nested(_BLOCK, "image.stack.block.", "vision_model.encoder.layers.{i}."),
    **nested(_BLOCK, "text.stack.block.", "text_model.encoder.layers.{i}."),
}
"""The rows that all kinds of models share."""


def plain_tensors(tensors: Mapping[str, Any], edits: Edits) -> PlainTensors:
    """A state dict of transformers without what holds no weights, and with `edits`."""
    return PlainTensors(tensors, {key: key for key in tensors if key not in _COUNTERS}, edits)
