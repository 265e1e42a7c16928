"""Zero-shot accuracy on labelled images."""

from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax import Array
from jax.experimental.multihost_utils import process_allgather

from ..._clip import CLIP
from ..._types import Count, Input
from ...inference.embed import embed_images
from .retrieval import ranks


ModelT = TypeVar("ModelT")


def zero_shot_accuracy(
    model: CLIP,
    images: Sequence[Any],
    labels: Input,
    classifier: Input,
    *,
    batch_size: Count = 64,
    progress: bool = True,
) -> dict[str, float]:
    """How often an image's class is the nearest, and among the five nearest.

    **Arguments:**

    - `images`: a sequence of what `model.preprocess` takes: paths, encoded bytes, PIL images.
      `eqx_clip.data.open_classes` gives them, with labels and names, of a folder or from TFDS.
    - `labels`: integers (images,), rows of the classifier.
    - `classifier`: (classes, embed), as `eqx_clip.zero_shot_classifier` gives it.
    - `batch_size`, `progress`: as for `eqx_clip.embed_images`.

    **Returns:** `"top1"`, and `"top5"` where there are more than five classes, from 0 to 1. Of
    equally near classes the first counts.

    Batches are spread over the devices that the model is on. With several processes all must call
    this, and each embeds its share of the images; a model that is spread over processes goes to
    each of them by `on_one_device` first. Raises `ValueError` for labels or a classifier that do
    not fit, for no image, and for an image that cannot be read, naming it.
    """
    labels, classifier = np.asarray(labels), np.asarray(classifier)
    _check(images, labels, classifier, model.embed_dim)
    share = range(jax.process_index(), len(images), jax.process_count())
    progress = progress and jax.process_index() == 0
    here = (images[i] for i in share)
    features = embed_images(model, here, batch_size=batch_size, progress=progress)
    found = np.empty(0)
    if len(share):
        found = ranks(features, classifier, labels[share], batch_size)
    hits = {"top1": np.sum(found < 1)}
    if len(classifier) > 5:
        hits["top5"] = np.sum(found < 5)
    return {name: float(process_allgather(hit).sum()) / len(images) for name, hit in hits.items()}


def _check(images: Any, labels: np.ndarray, classifier: np.ndarray, embed_dim: int) -> None:
    if not len(images) or labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected images, at least one, and for each of them an integer label; got "
            f"{len(images)} images and labels {labels.dtype} {labels.shape}."
        )
    if classifier.ndim != 2 or classifier.shape[1] != embed_dim:
        raise ValueError(
            f"Expected a classifier (classes, {embed_dim}), such as `zero_shot_classifier(model, "
            f"...)` gives; got {classifier.shape}."
        )
    if labels.min() < 0 or labels.max() >= len(classifier):
        raise ValueError(
            f"Labels are rows of the classifier, from 0 to {len(classifier) - 1}; got "
            f"{labels.min()} to {labels.max()}."
        )


def on_one_device(model: ModelT) -> ModelT:
    """The same model on this process's first device, which must hold it, wherever it is now.

    With several processes all must call this. Memory is shared where it can be: the result lives
    no longer than the next step that donates what it was made of.
    """
    device = jax.local_devices()[0]

    def moved(leaf: Array) -> Array:
        if leaf.is_fully_replicated:
            return jax.device_put(leaf.addressable_data(0), device)
        whole = leaf if leaf.is_fully_addressable else process_allgather(leaf, tiled=True)
        return jax.device_put(whole, device)

    arrays, static = eqx.partition(model, lambda leaf: isinstance(leaf, Array))
    return eqx.combine(jax.tree.map(moved, arrays), static)
