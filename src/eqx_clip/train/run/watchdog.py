"""The end of a process that hangs."""

import faulthandler
import os
import threading
import time

from ..._types import Real


# sysexits.h's EX_TEMPFAIL: try again. Schedulers can be told to restart on it.
EXIT_CODE = 75
STDERR = 2  # the descriptor: a lock of `sys.stderr` may be what hangs


class Watchdog:
    """Ends this process if a step takes too long; JAX notices dead processes, not hanging ones.

    ```python
    with Watchdog(limit=600, first_limit=3600) as watchdog:
        for step in range(steps):
            watchdog.beat(f"step {step}")
            ...
    ```

    The process then says on the standard error which step hung and for how long, prints the stacks
    of all its threads, and exits with code 75. Its peers end as for a dead process. JAX runs ahead
    of the devices, so the step is the one that Python waits in.

    **Arguments:**

    - `limit`: seconds from one `beat` to the next.
    - `first_limit`: seconds from the first `beat` to the second, in which JAX compiles; no fewer
      than `limit`.
    """

    def __init__(self, *, limit: Real, first_limit: Real) -> None:
        for name, value in (("limit", limit), ("first_limit", first_limit)):
            if not value > 0:
                raise ValueError(f"`{name}={value}` must be a number of seconds, more than 0.")
        self.limit, self.first_limit = limit, max(limit, first_limit)
        self._beats = 0
        self._begun: tuple[str, float, Real] | None = None  # which, when, and how long it may take
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def beat(self, activity: str, *, limit: Real | None = None) -> None:
        """`activity` begins, and the one before it has ended. `limit` is for this one."""
        if limit is None:
            limit = self.first_limit if self._beats == 0 else self.limit
        with self._changed:
            self._beats += 1
            self._begun = (activity, time.monotonic(), limit)
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                if self._begun is None:
                    self._changed.wait()
                    continue
                activity, start, limit = self._begun
                if time.monotonic() - start > limit:
                    _end(activity, time.monotonic() - start, limit)
                self._changed.wait(start + limit - time.monotonic() + 0.001)


def _end(activity: str, seconds: float, limit: Real) -> None:
    message = (
        f"eqx_clip: {activity} has not ended after {seconds:.1f} s; its limit is {limit} s. The "
        f"stacks of all threads follow, and this process ends with exit code {EXIT_CODE}.\n"
    )
    os.write(STDERR, message.encode())
    faulthandler.dump_traceback(STDERR, all_threads=True)
    os._exit(EXIT_CODE)  # atexit handlers would wait for what hangs
