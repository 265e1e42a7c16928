"""Where a run lies, and where it goes on."""

import os
import re

import numpy as np
import pytest

from eqx_clip.train import Checkpointer, run_folder


def test_a_new_run_has_a_dated_folder_or_that_which_is_asked_for():
    assert re.fullmatch(r"checkpoints.\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_vit", run_folder("vit").path)
    assert run_folder("vit", "mine") == ("mine", False, None)
    assert run_folder("vit", "gs://mine/runs/") == ("gs://mine/runs", False, None)


def test_a_run_or_one_of_its_checkpoints_is_resumed():
    assert run_folder("vit", None, "runs/a") == ("runs/a", True, None)
    assert run_folder("vit", None, "runs/a/40/") == ("runs/a", True, 40)
    assert run_folder("vit", None, "gs://mine/runs/") == ("gs://mine/runs", True, None)
    assert run_folder("vit", "runs/a/", "runs/a") == ("runs/a", True, None)


def test_a_run_may_have_a_number_for_its_name(tmp_path):
    run = tmp_path / "20241124"
    with Checkpointer(run) as checkpointer:
        checkpointer.save(40, {"a": np.ones(3)})
    assert run_folder("vit", None, str(run)) == (str(run), True, None)
    assert run_folder("vit", str(run), f"{run}/40") == (str(run), True, 40)


def test_latest_is_the_newest_dated_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no run in"):
        run_folder("vit", None, "latest")
    for name in ("2026-01-02_03-04-05_b", "2026-01-01_03-04-05_a", "old_runs"):
        os.makedirs(f"checkpoints/{name}")
    newest = os.path.join("checkpoints", "2026-01-02_03-04-05_b")
    assert run_folder("vit", None, "latest") == (newest, True, None)
    assert run_folder("vit", "mine", "latest") == ("mine", True, None)


def test_a_run_does_not_go_on_in_another_folder():
    with pytest.raises(ValueError, match="cp -r runs/a runs/b"):
        run_folder("vit", "runs/b", "runs/a/40")
