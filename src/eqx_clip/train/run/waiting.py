"""What a process says and does while it waits for the others of its run."""

import os
import socket
import threading
import time
from collections.abc import Mapping

from ..._types import Count, Real


_STDERR = 2  # the descriptor: the main thread is inside of JAX
# Where schedulers say how many processes there are, and which this one is.
_SCHEDULERS = {
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID", "srun"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
}


class Waiting:
    """Around a wait for other processes: says after `patience` seconds for how many it waits.

    After `limit` seconds this process ends with exit code 1, from a thread.

    **Arguments:**

    - `num_processes`, `process_id`: of the run; by default what the scheduler says.
    """

    def __init__(
        self,
        num_processes: Count | None = None,
        process_id: Count | None = None,
        *,
        limit: Real,
        patience: Real = 5,
    ) -> None:
        self._words = _words(num_processes, process_id, os.environ)
        self._limit, self._patience = limit, min(patience, limit)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)

    def __enter__(self) -> "Waiting":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        start = time.monotonic()
        if self._over.wait(self._patience):
            return
        waits, remedy = self._words
        _say(f"waiting for {waits} For at most {self._limit} s. {remedy}")
        if not self._over.wait(start + self._limit - time.monotonic()):
            _say(f"waited {self._limit} s in vain for {waits} {remedy}")
            os._exit(1)  # the main thread does not come back from JAX


def _words(
    count: int | None, process: int | None, environment: Mapping[str, str]
) -> tuple[str, str]:
    """Which processes are waited for, and what to do where they do not come."""
    source, launcher = "", "one for each --process-id, with one --coordinator-address"
    if count is None:
        for name, (count_name, process_name, command) in _SCHEDULERS.items():
            if count_name in environment and process_name in environment:
                count, process = int(environment[count_name]), int(environment[process_name])
                source, launcher = f", as {name} says ({count_name}={count})", f"by `{command}`"
                break
    host = socket.gethostname()
    number = "1" if process is None else f"1, process {process}"
    all_processes = "all processes of the run" if count is None else f"{count} processes"
    return (
        f"{all_processes}{source}; here is {number}, on {host}.",
        f"Start all of them, {launcher}; or this one alone: --num-processes 1, or "
        "`initialize(num_processes=1)`.",
    )


def _say(text: str) -> None:
    os.write(_STDERR, f"eqx_clip: {text}\n".encode())
