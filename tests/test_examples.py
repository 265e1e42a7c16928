"""The examples run offline, and say what is wrong in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

import eqx_clip


EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script, *arguments, **environment):
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    eqx_clip.save(tiny(), folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    return path


def test_demo_trains_saves_loads_classifies_and_draws(tmp_path):
    pytest.importorskip("sklearn")
    result = run("demo.py", "--folder", tmp_path, "--steps", 3)
    # Three steps are too few, and the demo says so.
    assert result.returncode == 1 and "less than 95%" in result.stderr, result.stderr
    assert "Zero-shot accuracy on 359 held-out digits" in result.stdout
    assert len(list((tmp_path / "digits").glob("*.png"))) == 1797
    assert len((tmp_path / "held_out.csv").read_text().splitlines()) == 359 + 1
    assert eqx_clip.load(tmp_path / "model").preprocess.image_size == 16
    assert min(Image.open(tmp_path / "demo.png").size) > 400


def test_zero_shot_prints_texts_by_probability(folder, image):
    result = run("zero_shot.py", image, "a cat", "a dog", "two birds", "--model", folder)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    probabilities = [float(row[0].rstrip("%")) for row in rows]
    assert sum(probabilities) == pytest.approx(100, abs=0.1)
    assert probabilities == sorted(probabilities, reverse=True)
    assert {row[-1] for row in rows} == {"cat", "dog", "birds"}


def test_zero_shot_says_in_a_line_what_is_wrong(folder, image, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    cases = [
        ((image, "a", "--model", "vit-base-patch23"), "vit-base-patch32"),
        ((image, "a", "--model", "vit-base-patch32", "--pretrained", "laion2b"), "laion2b-"),
        ((image, "a", "--model", tmp_path / "nowhere"), "no folder"),
        ((tmp_path / "nowhere.png", "a", "--model", folder), "nowhere.png"),
        ((text, "a", "--model", folder), "image"),
        ((image, "a", "--model", "vit-base-patch32"), "cannot be reached"),
    ]
    for arguments, message in cases:
        result = run("zero_shot.py", *arguments, HF_HUB_CACHE=str(tmp_path / "cache"))
        assert result.returncode == 2 and result.stdout == ""
        assert message in result.stderr and "Traceback" not in result.stderr, result.stderr
