"""`examples/learn_digits.py --fast`: two processes, killed and resumed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


SCRIPT = Path(__file__).parents[1] / "examples" / "learn_digits.py"


def test_two_killed_processes_resume_to_the_bit(tmp_path):
    """The script itself compares what both runs exported; it fails where they differ."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--fast", "--folder", str(tmp_path)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Killed after step" in result.stdout
    one, other = (
        load_file(tmp_path / run / "open_clip" / "open_clip_model.safetensors")
        for run in ("in_peace", "killed")
    )
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    assert "held-out digits" in result.stdout
