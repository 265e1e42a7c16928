#!/usr/bin/env bash
# OpenCLIP 3.3.0 with Pillow 13.0.0: a 16-bit grey PNG, as radiology and microscopy have them, becomes
# almost all white, since convert("RGB") cuts its values off at 255 rather than scaling them. No
# warning is given. A 16-bit RGB PNG is scaled.
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

import io

import numpy as np
import open_clip
from PIL import Image

ramp = np.linspace(0, 65535, 224 * 224).reshape(224, 224).astype(np.uint16)
stream = io.BytesIO()
Image.fromarray(ramp).save(stream, "PNG")
image = Image.open(io.BytesIO(stream.getvalue()))
pixels = open_clip.image_transform(224, is_train=False)(image)
mean, std = (
    torch.tensor(values)[:, None, None]
    for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
)
white = ((pixels * std + mean) > 0.999).float().mean().item()
print(f"mode {image.mode}: {white:.1%} of a ramp from black to white is white")
assert white > 0.99, "16-bit grey is no longer cut off"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
