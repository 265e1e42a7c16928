"""Where metrics go: JSON lines, TensorBoard, Weights & Biases."""

import errno
import importlib
import json
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import jax

from ..._types import Count, PathLike


logger = logging.getLogger("eqx_clip.train")

Metrics = Mapping[str, SupportsFloat]


@runtime_checkable
class Logger(Protocol):
    """What the loop asks of a logger. Give it to one process only, the first.

    Steps count from one, as `state.step` of the state that comes out, and as checkpoints do: after
    a resume from the checkpoint of step k the first that is logged is k + 1.
    """

    def log(self, step: int, metrics: Metrics) -> None:
        """Keeps the metrics of a step: numbers, or arrays of no axes."""
        ...

    def close(self) -> None:
        """Writes what is left. Nothing can be logged after it."""
        ...


class JSONLines:
    """A file with a JSON object a line: `{"step": 1, "loss": 5.54, ...}`.

    Each line is whole and handed to the system before `log` returns. Numbers have all their
    digits; those that are not finite are written as null, since JSON has no other word for them.
    `read_lines` reads the file back, `draw_curves` draws it.
    """

    def __init__(self, path: PathLike, *, start_step: Count = 0):
        """Opens the file to go on after `start_step` steps, and makes its folder.

        What the file holds of later steps is dropped, since the run will come by there again, and
        so are lines of that step without a loss, since its evaluation comes again, and a line that
        a killed run left unfinished: with `start_step=0` everything. Raises `ValueError` for a path
        that is not local.
        """
        if "://" in os.fspath(path):
            raise ValueError(f"Lines are appended to a local file; got {os.fspath(path)!r}.")
        path = Path(os.fspath(path)).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _keep_until(path, start_step)
        self._file = open(path, "ab", buffering=0)

    def log(self, step: int, metrics: Metrics) -> None:
        values = {name: _finite(value) for name, value in metrics.items()}
        line = json.dumps({"step": int(step), **values}, allow_nan=False).encode() + b"\n"
        start = self._file.tell()
        if self._file.write(line) < len(line):  # the disk is full: the next write would raise
            self._file.truncate(start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        self._file.close()


def _finite(value: SupportsFloat) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _keep_until(path: Path, start_step: int) -> None:
    """Leaves the lines of steps taken. The file is replaced at once, or not at all."""
    whole = path.with_name(f"{path.name}.tmp")
    with open(whole, "wb") as stream:
        for line, entry in _entries(path):
            taken = entry["step"] == start_step > 0 and "loss" in entry
            if entry["step"] < start_step or taken:
                stream.write(line)
    os.replace(whole, path)


def read_lines(path: PathLike) -> list[dict[str, Any]]:
    """What `JSONLines` wrote, null as None. A line that a kill left unfinished is passed over."""
    return [entry for _, entry in _entries(Path(os.fspath(path)))]


def _entries(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a file, and what they say."""
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
                entry["step"] = int(entry["step"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"Line {number} of {path} is no JSON object with a step: {line[:80]!r}. Remove "
                    "the line, or name another file."
                ) from error
            yield line, entry


class TensorBoard:
    """Scalars for TensorBoard, by tensorboardX, without TensorFlow."""

    def __init__(self, folder: PathLike, *, start_step: Count = 0):
        """Writes a new file into `folder`. TensorBoard then shows nothing that older files in it
        have of steps after `start_step`: the run comes by there again. A kill loses what was logged
        within the last 10 seconds.

        Raises `ImportError` with the remedy where tensorboardX is missing.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "Logging to TensorBoard needs tensorboardX: `pip install 'eqx_clip[train]'`."
            ) from error
        self._writer = SummaryWriter(os.fspath(folder), purge_step=start_step + 1, flush_secs=10)

    def log(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), int(step))

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases."""

    def __init__(
        self, project: str, *, run_id: str | None = None, config: Mapping[str, Any] | None = None
    ):
        """Begins the run, or goes on with it.

        `run_id` names the run, and resumes it if the project has one of that name: give the same,
        such as the name of the checkpoints' folder, whenever training goes on. By default the run
        is new. `config` holds what the run was started with. The service takes no step twice: of
        what a resumed run logs anew the first values stay, which are equal on the same devices.

        Raises `ImportError` with the remedy where wandb is missing.
        """
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ImportError("Logging to Weights & Biases needs `pip install wandb`.") from error
        self._run = wandb.init(
            project=project,
            id=run_id,
            resume="allow" if run_id else None,
            config=dict(config or {}),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.log({name: float(value) for name, value in metrics.items()}, step=int(step))

    def close(self) -> None:
        self._run.finish()


def make_loggers(
    folder: str,
    *,
    start_step: Count = 0,
    tensorboard: bool = False,
    wandb_project: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[Logger]:
    """The loggers of a run's folder, on the first process; on the others none.

    JSON lines in `log.jsonl` where the folder is local, TensorBoard's files in `tensorboard`, and a
    run of Weights & Biases named as the folder, with `config`.
    """
    if jax.process_index():
        return []
    loggers: list[Logger] = []
    if "://" not in folder:
        os.makedirs(folder, exist_ok=True)
        loggers.append(JSONLines(os.path.join(folder, "log.jsonl"), start_step=start_step))
    else:
        logger.warning("%s is not a folder here: there will be no log.jsonl.", folder)
    if tensorboard:
        loggers.append(TensorBoard(os.path.join(folder, "tensorboard"), start_step=start_step))
    if wandb_project is not None:
        name = os.path.basename(folder.rstrip("/"))
        run_id = f"{name}-{zlib.crc32(folder.encode()):08x}"  # a run that goes on has the same
        loggers.append(WandB(wandb_project, run_id=run_id, config=config))
    return loggers


def log_all(loggers: Iterable[Logger], step: int, metrics: Metrics) -> None:
    """Logs by each. One that cannot write, on a full disk, loses this line, and says so."""
    for one in loggers:
        try:
            one.log(step, metrics)
        except OSError as error:
            logger.error("Step %d is not logged by %s: %s", step, type(one).__name__, error)
