"""An orderly end on SIGTERM."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


logger = logging.getLogger("eqx_clip.train")


class Preemption:
    """Turns a SIGTERM of any process into one step after which all of them stop.

    ```python
    with Preemption() as preemption:
        for step in range(start + 1, steps + 1):
            ...
            if preemption.should_stop(step):
                checkpointer.save(step, state)
                checkpointer.wait()
                sys.exit(75)  # EX_TEMPFAIL: to be started again
    ```

    Where `jax.distributed` runs, JAX takes the signal and its service agrees on a step, the next
    one that no process has reached. Otherwise the signal is taken here, in the main thread; a
    second one ends the process as it would have without.
    """

    def __init__(self) -> None:
        self._stopping = False
        self._previous: Any = None

    def __enter__(self) -> "Preemption":
        if jax.distributed.is_initialized():
            return self
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("Python lets only the main thread take signals: enter there.")
        self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        signal.signal(signal.SIGTERM, self._previous)

    def should_stop(self, step: int) -> bool:
        """Whether to save and stop after `step`. Every process asks after every step, from the same
        one on."""
        if jax.distributed.is_initialized():
            self._stopping |= multihost_utils.reached_preemption_sync_point(step)
        if self._stopping:
            logger.warning("SIGTERM: stopping after step %d", step)
        return self._stopping
