"""What the shapes of transformers' tensors say of a CLIP or a SigLIP."""

from ...towers.text import TextConfig
from ...towers.timm_vit import TimmViTConfig
from ...towers.vit import ViTConfig
from ..rows.sizes import Shapes, TowerSizes, depth_of, one_size, square


def sizes_of(shapes: Shapes) -> tuple[TowerSizes, TowerSizes]:
    """The image tower and the text tower."""
    return _image(shapes), _text(shapes)


def _blocks(shapes: Shapes, tower: str) -> dict[str, int]:
    layers = f"{tower}.encoder.layers.{{i}}.mlp.fc1.weight"
    mlp_width, width = shapes[layers.format(i=0)]
    return {"width": width, "depth": depth_of(shapes, layers), "mlp_width": mlp_width}


def _image(shapes: Shapes) -> TowerSizes:
    embeddings = "vision_model.embeddings"
    _, _, *patch = shapes[f"{embeddings}.patch_embedding.weight"]
    tokens, _ = shapes[f"{embeddings}.position_embedding.weight"]
    values = {**_blocks(shapes, "vision_model"), "patch_size": one_size(*patch)}
    if "vision_model.head.probe" in shapes:  # SigLIP's
        return TowerSizes(TimmViTConfig, {**values, "grid": square(tokens)})
    embed_dim, _ = shapes["visual_projection.weight"]
    norm_pre = "vision_model.pre_layrnorm.weight" in shapes
    values |= {"grid": square(tokens - 1), "embed_dim": embed_dim, "norm_pre": norm_pre}
    return TowerSizes(ViTConfig, values)


def _text(shapes: Shapes) -> TowerSizes:
    (vocab_size, _), (context_length, width) = (
        shapes[f"text_model.embeddings.{kind}_embedding.weight"] for kind in ("token", "position")
    )
    embed_dim, projection = width, "none"
    for name, kind in (("text_projection", "matrix"), ("text_model.head", "linear")):
        if f"{name}.weight" in shapes:
            (embed_dim, _), projection = shapes[f"{name}.weight"], kind
    values = {
        **_blocks(shapes, "text_model"),
        "vocab_size": vocab_size,
        "context_length": context_length,
        "embed_dim": embed_dim,
        "projection": projection,
    }
    return TowerSizes(TextConfig, values)
