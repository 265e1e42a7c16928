#!/usr/bin/env bash
# OpenCLIP 3.3.0: positional embeddings of a ViT for images that are not square. Loaded for the
# transposed size, which has as many patches, they stay as they are, in rows of the wrong length;
# loaded for twice the size, they are taken for a square and fail in torch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 \
    open_clip_torch==3.3.0 timm==1.0.31 numpy==2.4.6 pillow==13.0.0
cat > "$folder/finding.py" <<'PYTHON'
import torch

# Beside a CPU build of torch, torchvision's C extension does not load. Nothing here needs it.
if not hasattr(torch.ops.torchvision, "nms"):
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import copy

from open_clip.model import CLIP, resize_pos_embed

vision = {"image_size": [32, 16], "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


def model(height, width):
    return CLIP(8, {**vision, "image_size": [height, width]}, text)


saved = model(32, 16).state_dict()
positions = "visual.positional_embedding"

other = model(16, 32)
loaded = copy.copy(saved)
resize_pos_embed(loaded, other)
unchanged = torch.equal(loaded[positions], saved[positions])
print(f"grid (4, 2) to {other.visual.grid_size}: positions unchanged: {unchanged}")
assert unchanged, "transposed grids are now resized"

try:
    resize_pos_embed(copy.copy(saved), model(64, 32))
    failed = ""
except RuntimeError as error:
    failed = str(error)
print(f"grid (4, 2) to (8, 4): {failed}")
assert "must match" in failed, "grids that are not square are now resized"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
