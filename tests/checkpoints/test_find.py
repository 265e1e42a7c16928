"""What a source is: a registered name, a folder or a file."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import (
    CONFIG,
    NANO,
    WEIGHTS,
)
from helpers import bitwise_equal
from safetensors.numpy import load_file, save_file

import eqx_clip
from eqx_clip import (
    ViTConfig,
    WeightsNotFoundError,
)
from eqx_clip.checkpoints.find import find
from eqx_clip.zoo.architectures import MODELS


# Sources: folders and files


@pytest.mark.parametrize("spelling", [Path, str, "local-dir:{}".format])
def test_loads_a_folder(model, folder, spelling):
    assert bitwise_equal(eqx_clip.load(spelling(folder)), model)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.safetensors", "model.safetensors", "x"])
def test_loads_a_folder_with_weights_of_another_name(model, folder, name):
    (folder / WEIGHTS).rename((folder / name).with_suffix(".safetensors"))
    assert bitwise_equal(eqx_clip.load(folder), model)


def test_prefers_openclips_weights_to_those_of_transformers(model, folder):
    (folder / "model.safetensors").write_bytes(b"Hugging Face transformers put theirs here")
    assert bitwise_equal(eqx_clip.load(folder), model)


def test_several_weights_of_unknown_names_are_ambiguous(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"several weights: a\.safetensors, b\.safetensors"):
        eqx_clip.load(folder)


def test_a_folder_named_as_weights_is_not_weights(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(WeightsNotFoundError, match="no weights; expected 'open_clip_model"):
        eqx_clip.load(folder)


@pytest.mark.parametrize("spelling", [Path, str])
@pytest.mark.parametrize("name", [NANO, "vit_nano_patch32", "vit-eps-patch32"])
def test_loads_a_file_as_a_named_architecture(nano, tmp_path, name, spelling):
    save_file(eqx_clip.to_state_dict(nano), tmp_path / "weights.safetensors")
    assert bitwise_equal(eqx_clip.load(name, spelling(tmp_path / "weights.safetensors")), nano)


def test_quickgelu_spelling_changes_the_activation_of_a_file(tmp_path):
    config = MODELS["vit-base-patch32"]
    assert isinstance(config.image, ViTConfig)
    with pytest.raises(WeightsNotFoundError, match="no file"):
        eqx_clip.load("ViT-B-32-quickgelu", tmp_path / "weights.safetensors")
    path = tmp_path / "weights.safetensors"
    save_file({"logit_scale": np.float32([1])}, path)
    quick = find("ViT-B-32-quickgelu", path, cache_dir=None, revision=None)
    assert quick.config == config.with_quick_gelu()


def test_a_file_of_another_architecture_is_refused(folder):
    for _ in range(2):  # by the configuration beside the file, then by the one within
        with pytest.raises(ValueError, match=rf"is not '{NANO}': .*width=40"):
            eqx_clip.load(NANO, folder / WEIGHTS)
        (folder / CONFIG).unlink(missing_ok=True)
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"tensors belong nowhere.*do not belong together"):
        eqx_clip.load(NANO, folder / WEIGHTS)


@pytest.mark.parametrize("where", ["beside", "within"])
def test_a_file_keeps_its_own_activation_and_preprocessing(where, tmp_path):
    config = dataclasses.replace(
        MODELS[NANO].with_quick_gelu(), preprocess=eqx_clip.Preprocess(mean=0.5, std=0.5)
    )
    model = eqx_clip.create(config, key=jax.random.key(0))
    eqx_clip.save(model, tmp_path)
    if where == "within":
        (tmp_path / CONFIG).unlink()
    assert bitwise_equal(eqx_clip.load(NANO, tmp_path / WEIGHTS), model)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (lambda folder: [folder.with_name("modle")], r"no folder"),
        (lambda folder: ["vit-base-patch-32"], r"Did you mean 'vit-base-patch32'\?"),
        (lambda folder: [folder, "laion2b-e16"], r"`tag='laion2b-e16'` has no meaning"),
        (lambda folder: ["hf-hub:a/b", "laion2b-e16"], r"`tag='laion2b-e16'` has no meaning"),
        (lambda folder: [NANO, folder], r"no file"),
        (lambda folder: [NANO, "missing.safetensors"], r"no file missing\.safetensors"),
        (lambda folder: ["vit-base-patch32", "laion2b-s34b-b79"], r"Did you mean 'laion2b-s34b-"),
    ],
)
def test_what_is_no_source_is_refused_with_the_remedy(folder, arguments, words):
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(*arguments(folder))


def test_revision_belongs_to_the_hub(folder):
    for source in ([folder], [NANO, folder / WEIGHTS]):
        with pytest.raises(ValueError, match=r"`revision='main'` has no meaning"):
            eqx_clip.load(*source, revision="main")


def test_a_folder_that_is_called_as_a_model_is_told(
    nano, tmp_path, monkeypatch, caplog, no_network
):
    monkeypatch.chdir(tmp_path)
    eqx_clip.save(nano, "RN50")
    with pytest.raises(WeightsNotFoundError):
        eqx_clip.load("RN50")
    assert "'RN50' is taken for the registered model; the folder is './RN50'." in caplog.text
    with pytest.raises(ValueError, match=r"Load its folder: `eqx_clip\.load\('\./RN50'\)`"):
        eqx_clip.load("RN101", f"RN50/{WEIGHTS}")
    assert bitwise_equal(eqx_clip.load("./RN50"), nano)


def test_a_folder_of_a_models_name_is_read_by_its_path(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eqx_clip.save(model, "convnext/base")
    assert bitwise_equal(eqx_clip.load("convnext/base"), model)
