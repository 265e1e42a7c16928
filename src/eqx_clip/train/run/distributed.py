"""One run of many processes."""

import itertools
import json
import logging
import os
import re
import socket
import sys
import time
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..._types import Count, Real
from .facts import as_json, flattened
from .waiting import Waiting


logger = logging.getLogger("eqx_clip.train")

_LOST = re.compile("Gloo|NCCL|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|[Hh]eartbeat|coordination serv")


def initialize(
    coordinator_address: str | None = None,
    num_processes: Count | None = None,
    process_id: Count | None = None,
    *,
    heartbeat_seconds: Count = 20,
    timeout_seconds: Count = 300,
) -> None:
    """Joins this process to the others of its run; nothing to do for a single one.

    Without arguments the environment says who the others are: on TPU pods, under Slurm and under
    Open MPI. Elsewhere give all three: the address, `host:port`, of process 0, how many processes
    there are, and which this one is. `num_processes=1` makes a single one whatever the environment.
    Call it before anything else of JAX; a second call does nothing.

    Where the others are not there within a few seconds, a line on the standard error says how many
    are waited for, and how to start one alone; after `timeout_seconds` this process ends with exit
    code 1.

    A process that dies is missed after `heartbeat_seconds`; then JAX ends all others, and names it
    on their standard error: "The following tasks are unhealthy (stopped sending heartbeats)" with
    the numbers of processes, or "the leader task" for process 0. An exception that ends this
    process ends it at once, without JAX's barrier at exit, where it would wait for peers that wait
    for it.

    Raises `ValueError` for half of the arguments, and `RuntimeError` if JAX has begun to compute.
    """
    if jax.distributed.is_initialized() or num_processes == 1:
        return
    given = _checked(coordinator_address, num_processes, process_id)
    try:
        with Waiting(*(num_processes, process_id) if given else (), limit=timeout_seconds):
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                cluster_detection_method="deactivate" if given else None,
                # JAX would abort, with the stack of its threads: `Waiting` ends before.
                initialization_timeout=timeout_seconds + 60,
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
    except ValueError as error:
        if given or "coordinator_address" not in str(error):
            raise
        return  # no environment of many processes
    logger.info(
        "process %d of %d, on %s", jax.process_index(), jax.process_count(), socket.gethostname()
    )
    sys.excepthook = _Ending(sys.excepthook, heartbeat_seconds)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is of the connection to other processes of this run, which may have died."""
    # Gloo's, of CPUs, come as `ValueError`, in XLA's words.
    of_run = isinstance(error, (jax.errors.JaxRuntimeError, ValueError))
    return jax.distributed.is_initialized() and of_run and bool(_LOST.search(str(error)))


def check_same(**facts: Any) -> None:
    """`ValueError` on every process if some fact differs between processes, with what each has.

    Facts are what JSON can say, nested or not, and dataclasses of it.
    """
    own = flattened(as_json(facts))
    everywhere = [json.loads(text) for text in gathered(json.dumps(own))]
    for name in dict.fromkeys(itertools.chain(*everywhere)):
        values = [process.get(name, "nothing") for process in everywhere]
        if len(set(values)) > 1:
            raise ValueError(
                f"`{name}` must be the same in all processes; they have, in order, "
                f"{', '.join(values)}. Start all with the same options and data."
            )


def gathered(text: str) -> list[str]:
    """What every process says, in their order."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.asarray(len(data), np.int32)).max())
    padded = np.pad(data, (0, longest - len(data)))
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    return [row.tobytes().rstrip(b"\0").decode() for row in rows]


def _checked(
    coordinator_address: str | None, num_processes: Count | None, process_id: Count | None
) -> bool:
    """Whether the arguments are given. `ValueError` if some are, or if they do not fit."""
    arguments = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in arguments.items() if value is None]
    if len(missing) == len(arguments):
        return False
    if missing:
        given = [f"{name}={value!r}" for name, value in arguments.items() if value is not None]
        raise ValueError(
            f"Got {', '.join(given)} without {', '.join(missing)}. Give all three on every "
            "process, or none, where the environment says them (TPU pods, Slurm, Open MPI)."
        )
    assert coordinator_address is not None and num_processes is not None and process_id is not None
    if not coordinator_address.rpartition(":")[2].isdigit() or ":" not in coordinator_address:
        raise ValueError(
            f"`coordinator_address={coordinator_address!r}` must be the host and a free port of "
            "process 0, such as '10.0.0.1:8476'."
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"`process_id={process_id}` must be at least 0 and less than "
            f"`num_processes={num_processes}`."
        )
    return True


class _Ending:
    """An exception hook that ends the process at once, after the hook that was there."""

    def __init__(self, previous: Any, heartbeat_seconds: Real) -> None:
        self._previous = previous
        self._heartbeat_seconds = heartbeat_seconds

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self._previous(kind, error, trace)
        if is_lost_connection(error):
            seconds = self._heartbeat_seconds + 10
            print(
                f"eqx_clip: if another process died, JAX names it within {seconds} s.",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(seconds)  # JAX ends this process with that message
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
