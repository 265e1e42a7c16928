"""The steps of a run, and which of them do more than train."""

import dataclasses

from ..._types import Count


@dataclasses.dataclass(frozen=True)
class RunSteps:
    """The steps of a run, which count from one: step 7 is the seventh.

    - `per_epoch`, `epochs`: of the whole run.
    - `start`: how many were taken before, where a run goes on.
    - `log_every`: steps between two that are logged; 0: the first and the last only.
    """

    per_epoch: Count
    epochs: Count
    start: Count = 0
    log_every: Count = 0

    @property
    def total(self) -> int:
        return self.epochs * self.per_epoch

    def begins_later_epoch(self, step: int) -> bool:
        """Whether an epoch is complete before `step`."""
        return step > 1 and (step - 1) % self.per_epoch == 0

    def is_logged(self, step: int) -> bool:
        is_regular = self.log_every > 0 and step % self.log_every == 0
        return is_regular or step in (self.start + 1, self.total)

    def profiled(self, count: Count) -> range:
        """So many steps to profile, after ten others where so many are left."""
        first = max(self.start, min(self.start + 10, self.total - count)) + 1
        return range(first, first + count)
