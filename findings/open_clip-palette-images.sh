#!/usr/bin/env bash
# OpenCLIP 3.3.0: the evaluation transform resizes an image with a palette before it makes it RGB,
# by nearest neighbour, and gives other pixels than for the same image in RGB. Its CSV pipeline
# feeds such images as they are; its WebDataset pipeline converts them first.
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

import numpy as np
from open_clip.transform import image_transform
from PIL import Image

generator = np.random.default_rng(0)
small = Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8))
palette = small.resize((448, 448)).convert("P", palette=Image.Palette.ADAPTIVE)
transform = image_transform(224, is_train=False)
difference = (transform(palette) - transform(palette.convert("RGB"))).abs()
print(f"largest difference {difference.max():.2f}, mean {difference.mean():.3f}, in normalised pixels")
assert difference.max() > 0.1, "OpenCLIP now converts palettes before it resizes them"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
