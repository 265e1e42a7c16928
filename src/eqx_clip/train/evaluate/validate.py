"""The loss and retrieval of a whole validation set."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import Float, Int

from ..._checks import as_count, short_repr
from ..._clip import CLIP
from ..._types import AnyArray, Count, Input, at_least_float32
from ..step.objective import OBJECTIVES, Loss, Objective, find_objective
from .retrieval import by_rows, check_features, filled, retrieval_metrics


# Of a model and a batch, unit features of its images and of its texts.
EvalStep = Callable[[Any, dict[str, np.ndarray]], tuple[AnyArray, AnyArray]]
Pair = tuple[np.ndarray, np.ndarray]


def validate(
    eval_step: EvalStep,
    model: CLIP,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    batch_size: Count,
    groups: Input | None = None,
    chunk_size: Count = 256,
    loss: Loss | None = None,
) -> dict[str, float]:
    """The mean loss over a data set's batches, and retrieval among all of its examples.

    **Arguments:**

    - `eval_step`: `eval_step(model, batch)` gives unit features of images and of texts, (rows,
      embed) each. Its batch is this process's rows, `{"image": ..., "tokens": ...}`. On a mesh:
      `lambda model, batch: eval_step(model, global_batch(batch, mesh))`; the features must then be
      spread over the mesh by their rows, as the batch is.
    - `batches`: this process's part of each batch, such as `eqx_clip.data.batches(...,
      shuffle=False, epochs=1, drop_remainder=False)` gives: `batch_size / processes` rows, or in
      the last batch fewer, or none. All processes must have equally many batches.
    - `batch_size`: of the global batch. Parts of fewer rows are filled up with zeros, so that one
      shape is compiled, and the features of those are left out.
    - `groups`: integers (examples,), equal for examples that are texts of one image, such as
      `eqx_clip.data.Pairs(source).groups` of the source that `batches` reads. Retrieval then takes
      each image once, by the first of them. Without, every example has an image of its own.
    - `chunk_size`: as for `retrieval_metrics`.
    - `loss`: "clip" or "siglip", as for `make_train_step`; by default "siglip" for a model with a
      `logit_bias`.

    **Returns:** `"loss"`, the mean over all batches of the loss within a batch, with the model's
    temperature and bias, weighted by the batches' sizes; the softmax loss, which is what OpenCLIP's
    `evaluate` has for every model, grows with the batch size; `"num_samples"`; and what
    `retrieval_metrics` gives. All processes return the same.

    Every process keeps all features in its memory, and computes on its first device; each device
    must be able to hold them. Raises `ValueError` for no example, for a part larger than a
    process's share of `batch_size`, for features that are not finite, and for a `loss` that the
    model or the `batch_size` cannot have.
    """
    rows = _rows_of_a_process(batch_size)
    objective = find_objective(loss or ("clip" if model.logit_bias is None else "siglip"))
    if objective not in _LOSSES:
        raise ValueError(f"`loss` must be 'clip' or 'siglip' here; got {short_repr(loss)}.")
    objective.check(model, batch_size)
    counts: list[int] = []
    features: list[Any] = []
    for batch in batches:
        counts.append(_count(batch, rows))
        part = {name: filled(batch[name], rows) for name in ("image", "tokens")}
        features.append(eval_step(model, part))
        if len(features) > 1:  # the devices compute this batch while the one before is fetched
            features[-2] = _fetched(features[-2], rows)
    if features:
        features[-1] = _fetched(features[-1], rows)
    gathered = _gathered(features, counts) if features else []
    if not gathered:
        raise ValueError("There is nothing to validate on: `batches` gave no example.")
    image_features, text_features = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    check_features(image_features, text_features)
    retrieval = _retrieval(image_features, text_features, groups, chunk_size)
    scale = float(model.scale)
    bias = None if model.logit_bias is None else np.asarray(model.logit_bias)
    losses = [_LOSSES[objective](pair, scale, bias, chunk_size) for pair in gathered]
    sizes = [len(images) for images, _ in gathered]
    return {
        "loss": float(np.average(losses, weights=sizes)),
        "num_samples": float(sum(sizes)),
        **retrieval,
    }


def _retrieval(
    image_features: np.ndarray, text_features: np.ndarray, groups: Any, chunk_size: Count
) -> dict[str, float]:
    """Retrieval in which each image counts once, by the first example of its group."""
    if groups is None:
        return retrieval_metrics(image_features, text_features, chunk_size=chunk_size)
    if np.shape(groups) != (len(text_features),):
        raise ValueError(
            f"`groups` must say the image of each of the {len(text_features)} examples; got shape "
            f"{np.shape(groups)}."
        )
    _, firsts, images = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return retrieval_metrics(
        image_features[firsts], text_features, groups=images, chunk_size=chunk_size
    )


def _rows_of_a_process(batch_size: Count) -> int:
    processes = jax.process_count()
    if as_count("batch_size", batch_size) % processes:
        raise ValueError(
            f"`batch_size={batch_size}` must be a multiple of the {processes} processes."
        )
    return batch_size // processes


def _count(batch: Mapping[str, np.ndarray], rows: int) -> int:
    count = len(batch["image"])
    if count > rows:
        raise ValueError(
            f"A batch has {count} rows on this process; expected at most {rows}, its share of "
            "`batch_size`, which must be that of `batches`."
        )
    return count


def _fetched(features: tuple[AnyArray, AnyArray], rows: int) -> Pair:
    """This process's rows, those that fill up included."""
    images, texts = (_rows_here(array, rows) for array in features)
    return images, texts


def _rows_here(features: AnyArray, rows: int) -> np.ndarray:
    if isinstance(features, Array):
        parts = {shard.index[0].start or 0: shard.data for shard in features.addressable_shards}
        here = np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
    else:
        here = features
    if here.shape != (rows, features.shape[1]):
        raise ValueError(
            f"Of the features that `eval_step` gave, {features.shape}, this process has "
            f"{here.shape}; expected its {rows} rows of the batch: they must be sharded over their "
            "rows as the batch is."
        )
    return np.asarray(here, at_least_float32(here.dtype))


def _gathered(features: list[Pair], counts: list[int]) -> list[Pair]:
    """The features of all processes, batch by batch, without the rows that fill up."""
    images, texts = (process_allgather(np.stack(arrays)) for arrays in zip(*features, strict=True))
    sizes = process_allgather(np.array(counts))

    def whole(features: np.ndarray, batch: int) -> np.ndarray:
        parts = zip(features[:, batch], sizes[:, batch], strict=True)
        return np.concatenate([rows[:size] for rows, size in parts])

    batches = [batch for batch in range(len(counts)) if sizes[:, batch].any()]
    return [(whole(images, batch), whole(texts, batch)) for batch in batches]


def _softmax_loss(features: Pair, scale: float, bias: Any, chunk_size: Count) -> float:
    """`clip_loss` in chunks: a batch for the whole mesh may be too large for one device.

    A bias has no part in it.
    """
    images, texts = features
    own = np.arange(len(images))
    by_image = by_rows(_nll, images * scale, texts, own, chunk_size)
    by_text = by_rows(_nll, texts * scale, images, own, chunk_size)
    return float(np.mean(by_image) + np.mean(by_text)) / 2


def _sigmoid_loss(features: Pair, scale: float, bias: AnyArray, chunk_size: Count) -> float:
    """`siglip_loss` in chunks."""
    images, texts = features
    bias = jax.device_put(bias)

    def nll(queries: Array, keys: Array, targets: AnyArray) -> Array:
        return _pairwise_nll(queries, keys, targets, bias)

    by_image = by_rows(nll, images * scale, texts, np.arange(len(images)), chunk_size)
    return float(np.mean(by_image))


_LOSSES: dict[Objective, Callable[[Pair, float, Any, Count], float]] = {
    OBJECTIVES["clip"]: _softmax_loss,
    OBJECTIVES["siglip"]: _sigmoid_loss,
}


@jax.jit
def _nll(
    queries: Float[Array, "rows embed"],
    keys: Float[Array, "keys embed"],
    targets: Int[AnyArray, " rows"],
) -> Float[Array, " rows"]:
    logits = jnp.matmul(queries, keys.T, precision="highest")
    own = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - own


@jax.jit
def _pairwise_nll(
    queries: Float[Array, "rows embed"],
    keys: Float[Array, "keys embed"],
    targets: Int[AnyArray, " rows"],
    bias: Float[AnyArray, ""],
) -> Float[Array, " rows"]:
    logits = jnp.matmul(queries, keys.T, precision="highest") + bias
    own = jnp.arange(len(keys)) == jnp.asarray(targets)[:, None]
    return -jnp.sum(jax.nn.log_sigmoid(jnp.where(own, logits, -logits)), axis=1)
