"""What is subtracted from pixels of 0 to 1, and what they are then divided by, by their names."""

from typing import Any

from ..images.preprocess import OPENAI_MEAN, OPENAI_STD


STATISTICS: dict[str, dict[str, Any]] = {
    "openai": {"mean": OPENAI_MEAN, "std": OPENAI_STD},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "unit": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
}
