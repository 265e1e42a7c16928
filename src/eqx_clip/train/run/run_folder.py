"""Where a run lies, and where it goes on."""

import datetime
import os
from pathlib import Path
from typing import NamedTuple

from .checkpoint import Checkpointer
from .distributed import gathered


RUNS = "checkpoints"  # where runs lie that nobody named a folder for


class RunFolder(NamedTuple):
    """A run's folder; whether it goes on, and from which step: None is the latest."""

    path: str
    resumes: bool
    step: int | None = None


def run_folder(name: str, folder: str | None = None, resume: str | None = None) -> RunFolder:
    """The folder of a new run, or of one that goes on. The same on all processes.

    - `name`: of the model, for a new folder, `checkpoints/<date>_<name>`.
    - `folder`: what the user asked for; None: a new one, or the newest if "latest" resumes.
    - `resume`: None, "latest", a run's folder, or one of the checkpoints in it.

    Raises `ValueError` where "latest" finds no run, and for two folders that differ.
    """
    # A bucket takes "a//b" for another name than "a/b".
    folder, resume = (path and path.rstrip("/") for path in (folder, resume))
    if resume is None:
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return RunFolder(folder or _agreed(os.path.join(RUNS, f"{now}_{name}")), False)
    if resume == "latest":
        return RunFolder(folder or _newest(), True)
    parent, _, step = resume.rpartition("/")
    found = RunFolder(resume, True)
    # A run may have a number for its name, such as Slurm's of the job.
    if parent and step.isdigit() and Checkpointer(resume).latest() is None:
        found = RunFolder(parent, True, int(step))
    if folder is not None and os.path.abspath(folder) != os.path.abspath(found.path):
        raise ValueError(
            f"A run goes on in its own folder, {found.path}; got {folder} to save in. Name one of "
            f"them only, or copy the run: cp -r {found.path} {folder}."
        )
    return found


def _newest() -> str:
    runs = sorted(str(path) for path in Path(RUNS).glob("????-??-??_*") if path.is_dir())
    newest = _agreed(runs[-1] if runs else "")
    if not newest:
        raise ValueError(f"There is no run in {Path(RUNS).absolute()} to resume: name its folder.")
    return newest


def _agreed(text: str) -> str:
    """What process 0 says."""
    return gathered(text)[0]
