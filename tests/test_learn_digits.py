"""The real learning run, shortened: two processes, killed in the middle, resumed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from eqx_clip import train


EXAMPLE = Path(__file__).parents[1] / "examples" / "learn_digits.py"


def test_two_killed_processes_resume_to_the_same_weights(tmp_path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--folder", str(tmp_path), "--fast"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert re.search(r"Killed after step (1[3-9]|2\d) of 24\.", result.stdout)
    assert re.search(r"accuracy on 359 held-out digits: \d+\.\d%", result.stdout)

    resumed = (tmp_path / "killed" / "process_0.txt").read_text()
    assert re.search(r"resumed at step (6|12|18|24) ", resumed)
    runs = tmp_path / "in_peace", tmp_path / "killed"
    logs = [train.read_lines(run / "log.jsonl") for run in runs]
    losses = [{entry["step"]: entry["loss"] for entry in log} for log in logs]
    assert list(losses[0]) == list(range(24)) and losses[0] == losses[1]
    weights, others = (
        safetensors.numpy.load_file(run / "open_clip" / "open_clip_model.safetensors")
        for run in runs
    )
    assert weights.keys() == others.keys()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
