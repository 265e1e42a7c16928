"""The end of a run whose loss or gradient is no number any more."""

import contextlib
import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int64

from ..._types import AnyArray, Count
from .checkpoint import Checkpointer


def check_finite(
    step: Count,
    metrics: Mapping[str, Float[AnyArray, ""]],
    index: Int64[np.ndarray, " rows"],
    where: Callable[[int], str],
    checkpointer: Checkpointer,
) -> None:
    """`FloatingPointError` for a loss, or a gradient's norm, that is not finite.

    `metrics` are the step's. It names the step, the last good checkpoint, and `where`, such as
    `source.where`, the examples of this process's part of the batch are kept, those of `index`. The
    gradient of a step that scales its loss may overflow: such a step changes nothing.
    """
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    if math.isfinite(loss) and (math.isfinite(norm) or "loss_scale" in metrics):
        return
    with contextlib.suppress(RuntimeError):  # of a failed save, which is logged
        checkpointer.wait()
    latest = checkpointer.latest()
    good = f"The last good checkpoint, of step {latest}, is"
    if latest is None:
        good = "There is no checkpoint yet"
    records = "\n  ".join(where(int(i)) for i in index)
    raise FloatingPointError(
        f"The loss of step {step} is {loss}, the norm of its gradient {norm}. {good} in "
        f"{checkpointer.folder}. Lower the learning rate, or look at the records of this batch:"
        f"\n  {records}"
    )
