"""What the shapes of big_vision's arrays say of a SigLIP."""

from ...towers.text import TextConfig
from ...towers.timm_vit import TimmViTConfig
from ..rows.sizes import Shapes, TowerSizes, depth_of, one_size, square


def sizes_of(shapes: Shapes) -> tuple[TowerSizes, TowerSizes]:
    """The image tower and the text tower."""
    height, width, _, _ = shapes["img/embedding/kernel"]
    image = {
        **_blocks(shapes, "img/Transformer/"),
        "patch_size": one_size(height, width),
        "grid": square(shapes["img/pos_embedding"][1]),
    }
    vocab_size, width = shapes["txt/Embed_0/embedding"]
    has_head = "txt/head/kernel" in shapes
    text = {
        **_blocks(shapes, "txt/Encoder_0/"),
        "vocab_size": vocab_size,
        "context_length": shapes["txt/pos_embedding"][1],
        "embed_dim": shapes["txt/head/kernel"][1] if has_head else width,
        "projection": "linear" if has_head else "none",
    }
    return TowerSizes(TimmViTConfig, image), TowerSizes(TextConfig, text)


def _blocks(shapes: Shapes, tower: str) -> dict[str, int]:
    layers = f"{tower}encoderblock_{{i}}/"
    first = layers.format(i=0)
    width, mlp_width = shapes[f"{first}MlpBlock_0/Dense_0/kernel"]
    _, num_heads, _ = shapes[f"{first}MultiHeadDotProductAttention_0/query/kernel"]
    depth = depth_of(shapes, f"{layers}LayerNorm_0/scale")
    return {"width": width, "depth": depth, "num_heads": num_heads, "mlp_width": mlp_width}
