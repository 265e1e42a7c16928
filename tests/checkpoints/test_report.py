"""`python -m eqx_clip.checkpoints`: what a file is."""

import subprocess
import sys

import numpy as np
import pytest
from big_vision_files import arrays_of, register
from folders import WEIGHTS
from helpers import TINY_SIGLIP
from safetensors.numpy import save_file

import eqx_clip
from eqx_clip.checkpoints.__main__ import main
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.files.safetensors import SafetensorsFile


def said(capsys, path):
    """The lines by name, the exit code, and what stands on the standard error."""
    code = 0
    try:
        main([str(path)])
    except SystemExit as exit:
        code = exit.code
    out, err = capsys.readouterr()
    return dict(line.split("  ", 1) for line in out.splitlines()), code, err


def has(lines, **words):
    found = {name.strip(): text.strip() for name, text in lines.items()}
    return all(word in found[name.replace("_", " ")] for name, word in words.items())


def test_a_file_alone(nano, tmp_path, capsys, monkeypatch):
    save_file(eqx_clip.to_state_dict(nano), tmp_path / "x.safetensors")
    read, get = [], SafetensorsFile.__getitem__

    def counted(self, key):
        read.append(key)
        return get(self, key)

    monkeypatch.setattr(SafetensorsFile, "__getitem__", counted)
    lines, code, err = said(capsys, tmp_path / "x.safetensors")
    assert (code, err) == (0, "")
    tensors = eqx_clip.to_state_dict(nano)
    count = sum(x.size for x in tensors.values())
    assert has(lines, container="safetensors", names="OpenCLIP", tensors=f"{len(tensors)}")
    assert has(lines, images="ViT: width 64, depth 2, mlp_width 256, patch_size 32, grid (7, 7)")
    assert has(lines, texts="text transformer: width 64, depth 2", numbers=f"{count:,} of float32")
    small = {"logit_scale", "visual.positional_embedding", "positional_embedding"}
    assert set(read) <= small
    assert any("load: preprocess" in name for name in lines)


def test_a_folder_and_one_in_transformers_names(nano, tmp_path, capsys):
    for form, origin in (("open_clip", "OpenCLIP"), ("transformers", "transformers")):
        eqx_clip.save(nano, tmp_path / form, format=form)
        lines, code, _ = said(capsys, tmp_path / form)
        assert code == 0 and has(lines, names=origin, images="ViT: width 64")


def test_an_npz(tmp_path, capsys, monkeypatch):
    config = config_from_open_clip(TINY_SIGLIP)
    register(monkeypatch, "ViT-tiny-8-SigLIP", config)
    np.savez(tmp_path / "x.npz", **arrays_of(config))
    lines, code, _ = said(capsys, tmp_path / "x.npz")
    assert code == 0 and has(lines, container="npz", names="big_vision", images="SigLIP ViT: ")
    assert has(lines, images="num_heads 4", logit_bias="yes")


def test_wrappers_and_types_of_torchs_files(nano, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    weights = {key: torch.tensor(x).half() for key, x in eqx_clip.to_state_dict(nano).items()}
    weights["logit_scale"] = weights["logit_scale"].bfloat16()
    torch.save({"state_dict": weights, "ema": weights}, tmp_path / "x.pt")
    lines, code, _ = said(capsys, tmp_path / "x.pt")
    assert code == 0 and has(lines, container="torch", parts="its moving average, 'ema'")
    assert has(lines, numbers=" of float16, 1 of bfloat16")


def test_what_load_says_against_it(nano, tmp_path, capsys):
    eqx_clip.save(nano, tmp_path)
    tensors = eqx_clip.to_state_dict(nano)
    del tensors["visual.ln_post.bias"]
    save_file(tensors, tmp_path / WEIGHTS)
    lines, code, err = said(capsys, tmp_path)
    assert code == 2 and has(lines, tensors=f"{len(tensors)}", images="ViT: ", names="OpenCLIP")
    assert err.startswith("error: `eqx_clip.load` says: ") and "'visual.ln_post.bias'" in err


@pytest.mark.parametrize(
    "name, words",
    [("missing.pt", "There is no file or folder"), ("x.safetensors", "not a whole safetensors")],
)
def test_what_is_no_file_of_weights(name, words, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"words")
    lines, code, err = said(capsys, tmp_path / name)
    assert (lines, code) == ({}, 2) and err.startswith("error: ") and words in err


def test_it_is_a_command(nano, tmp_path):
    command = [sys.executable, "-m", "eqx_clip.checkpoints"]
    help = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert help.returncode == 0 and "For example: python -m eqx_clip.checkpoints" in help.stdout
    wrong = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
