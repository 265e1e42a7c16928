"""The table of models in the README: `python -m eqx_clip.zoo.table` prints it."""

from .architectures import MODELS, other_names
from .pretrained import PRETRAINED, Pretrained


def table() -> str:
    """Markdown: each model with its other names, its tags and their pixels.

    (Q) marks weights of the quick GELU, (H) those of a mean and standard deviation of one half.
    """
    models = dict.fromkeys([*(row.model for row in PRETRAINED), *MODELS])
    rows = {model: [row for row in PRETRAINED if row.model == model] for model in models}
    lines = ["| model | OpenCLIP's name | tags | pixels |", "|---|---|---|---|"]
    lines += [_line(model, weights) for model, weights in rows.items() if weights]
    bare = [model for model, weights in rows.items() if not weights]
    lines.append(f"| {', '.join(bare)} | {_names(*bare)} | none: `create` | in the name, or 224 |")
    return "\n".join(lines)


def _line(model: str, weights: list[Pretrained]) -> str:
    tags = ", ".join(f"{row.tag}{_marks(row)}" for row in weights)
    sizes = sorted({row.preprocess.height for row in weights})
    pixels = str(sizes[0]) + "".join(f"; {size} where the tag says so" for size in sizes[1:])
    return f"| {model} | {_names(model)} | {tags} | {pixels} |"


def _names(*models: str) -> str:
    names = [name for model in models for name in other_names(model) if "quickgelu" not in name]
    return ", ".join(names) or "the same"


def _marks(row: Pretrained) -> str:
    half = row.preprocess.mean == (0.5, 0.5, 0.5)
    return f"{' (Q)' if row.quick_gelu else ''}{' (H)' if half else ''}"


if __name__ == "__main__":
    print(table())
