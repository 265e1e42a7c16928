"""When to save."""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..._checks import as_count
from ..._types import Count, Real


# Steps between two looks at process 0's clock, where there are several processes: they agree by a
# collective, which every step would have to wait for.
_AGREE_EVERY = 10


class SaveSchedule:
    """Says after which steps to save: every so many steps, every so many minutes, or either.

    Epochs are steps: `steps=epochs * steps_per_epoch`. With many processes it is process 0's clock
    that counts, asked every 10th step, and all must ask after every step.
    """

    def __init__(self, *, steps: Count | None = None, minutes: Real | None = None) -> None:
        self.steps = None if steps is None else as_count("steps", steps)
        if minutes is not None and not minutes > 0:
            raise ValueError(f"`minutes={minutes}` must be more than 0, or None.")
        self.minutes = minutes
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after `step` steps. If so, the minutes count from now."""
        due = self.steps is not None and step % self.steps == 0
        due = due or (self.minutes is not None and self._are_over(step, self.minutes))
        if due:
            self._last = time.monotonic()
        return due

    def _are_over(self, step: int, minutes: Real) -> bool:
        over = time.monotonic() - self._last >= 60 * minutes
        if jax.process_count() == 1:
            return over
        return step % _AGREE_EVERY == 0 and bool(
            multihost_utils.broadcast_one_to_all(np.asarray(over))
        )
