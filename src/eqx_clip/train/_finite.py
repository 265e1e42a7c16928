"""The end of a run whose loss is no number any more."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from .._types import AnyArray, Count
from ._checkpoint import Checkpointer


def check_loss(
    step: Count,
    loss: Float[AnyArray, ""],
    index: Int64[np.ndarray, " rows"],
    source: Any,
    checkpointer: Checkpointer,
) -> None:
    """`FloatingPointError` for a loss that is not finite.

    It names the step, the last good checkpoint, and where `source` keeps the examples of this
    process's part of the batch, those of `index`.
    """
    if math.isfinite(float(loss)):
        return
    records = "\n  ".join(source.where(int(i)) for i in index)
    raise FloatingPointError(
        f"The loss of step {step} is {float(loss)}. The last good checkpoint in "
        f"{checkpointer.folder} is of step {checkpointer.latest()}. Lower the learning rate, or "
        f"look at the records of this batch:\n  {records}"
    )
