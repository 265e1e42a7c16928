"""How fast training goes, and how much of the time it waits for data."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar


ItemT = TypeVar("ItemT")


class Meter:
    """Images a second, and the share of time spent waiting for the next batch.

    ```python
    meter = Meter()
    for batch in meter.waits(feed):
        state, metrics = step(state, batch)
        meter.count(len(batch["index"]) * jax.process_count())
        if log:
            values = {"loss": float(metrics["loss"]), **meter.read()}
    ```

    Time is that of the host, between readings: fetch the loss, as here, before you read, or steps
    that are still computed will count as done. The wait is exact if the loop waits for each step's
    result before it asks for the next batch; if it runs ahead of the devices, part of the wait is
    hidden behind their work, and the share is an upper bound of what data cost.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        """`clock` tells the time in seconds."""
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Starts anew, after what is no training: a compilation, an evaluation, a checkpoint."""
        self._started, self._images, self._waited = self._clock(), 0, 0.0

    def waits(self, batches: Iterable[ItemT]) -> Iterator[ItemT]:
        """The same batches; asking for each is timed."""
        iterator = iter(batches)
        while True:
            asked = self._clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - asked
            yield batch

    def count(self, images: int) -> None:
        """So many images, of all processes, were trained on."""
        self._images += images

    def read(self) -> dict[str, float]:
        """`"images_per_second"` and `"data_wait"`, from 0 to 1, since the last reading or reset.

        Nothing where no image was counted since.
        """
        seconds = self._clock() - self._started
        images, waited = self._images, self._waited
        self.reset()
        if not images or seconds <= 0:
            return {}
        return {"images_per_second": images / seconds, "data_wait": min(1.0, waited / seconds)}
