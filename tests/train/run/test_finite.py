"""A run ends where its loss or its gradient is no number."""

import numpy as np
import pytest

from eqx_clip.train import Checkpointer, check_finite


def where(i: int) -> str:
    return f"row {i}"


@pytest.mark.parametrize("loss, norm", [("nan", 1), ("inf", 1), (1, "nan"), (1, "inf")])
def test_step_and_records_are_named(tmp_path, loss, norm):
    metrics = {"loss": np.array(loss, np.float32), "grad_norm": np.array(norm, np.float32)}
    with pytest.raises(
        FloatingPointError, match=r"(?s)step 7 .*There is no checkpoint yet in .*row 3\n  row 5"
    ):
        check_finite(7, metrics, np.array([3, 5]), where, Checkpointer(tmp_path))


def test_the_last_checkpoint_is_waited_for(tmp_path, monkeypatch):
    # The folder does not show a save that is still in the background.
    metrics = {name: np.array(np.nan, np.float32) for name in ("loss", "grad_norm")}
    checkpointer = Checkpointer(tmp_path)
    done = []
    monkeypatch.setattr(checkpointer, "wait", lambda: done.append(6))
    monkeypatch.setattr(checkpointer, "latest", lambda: done[-1] if done else None)
    with pytest.raises(FloatingPointError, match="last good checkpoint, of step 6, is in"):
        check_finite(7, metrics, np.array([3]), where, checkpointer)


def test_a_gradient_may_overflow_where_the_loss_is_scaled(tmp_path):
    metrics = {name: np.ones((), np.float32) for name in ("loss", "loss_scale")}
    metrics["grad_norm"] = np.array(np.inf, np.float32)
    check_finite(7, metrics, np.array([3]), where, Checkpointer(tmp_path))
    metrics["loss"] = np.array(np.nan, np.float32)
    with pytest.raises(FloatingPointError):
        check_finite(7, metrics, np.array([3]), where, Checkpointer(tmp_path))
