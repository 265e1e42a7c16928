"""Imports the oracle, OpenCLIP on torch, or skips the tests that need it.

torchvision's wheel is built for CUDA: beside a CPU build of torch its C extension does not load,
and the import fails for want of two operators that nothing here calls. Declaring them is enough.
"""

import warnings

import pytest


torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # the tests run side by side


def _declare_missing_operators():
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_library = _declare_missing_operators()  # kept alive: the declarations go with it

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import open_clip
    import open_clip_train
    import timm
    import torchvision


__all__ = ["open_clip", "open_clip_train", "timm", "torch", "torchvision"]
