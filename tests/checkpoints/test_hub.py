"""Weights from the hub, and pickles, which are never run."""

import os
import pickle
import time
import zipfile

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest
from folders import (
    CONFIG,
    NANO,
    WEIGHTS,
)
from helpers import bitwise_equal, tiny
from safetensors.numpy import save_file

import eqx_clip
from eqx_clip import (
    Preprocess,
    WeightsNotFoundError,
)
from eqx_clip.checkpoints.hub import REGISTERED_FILES
from eqx_clip.zoo import pretrained as registry


# Sources: the hub


@pytest.fixture
def nano_row(monkeypatch):
    """Weights in two repositories, of a model small enough to write in a test."""
    row = registry.Pretrained(
        model=NANO,
        tag="tag-a",
        open_clip=("nano", "tag_a"),
        repos=("org/first", "org/second"),
        preprocess=Preprocess(),
    )
    monkeypatch.setattr(registry, "PRETRAINED", (*registry.PRETRAINED, row))
    return row


def test_loads_a_repository_of_the_hub(hub, model, folder):
    hub.add("org/clip", folder)
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), model)


def test_what_was_downloaded_is_not_downloaded_again(hub, model, folder, monkeypatch):
    hub.add("org/clip", folder)
    eqx_clip.load("hf-hub:org/clip")
    hub.log.clear()
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), model)
    assert not any(line.startswith("GET") for line in hub.log)
    hub.log.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), model)
    assert not hub.log


def test_revision_of_the_hub(hub, model, folder, tmp_path):
    other = tiny(seed=1)
    eqx_clip.save(other, tmp_path / "other")
    hub.add("org/clip", folder)
    hub.add("org/clip", tmp_path / "other", revision="v2")
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip", revision="v2"), other)
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), model)
    with pytest.raises(WeightsNotFoundError, match="no revision 'v3'"):
        eqx_clip.load("hf-hub:org/clip", revision="v3")


def test_loads_a_registered_pair_from_the_first_repository_that_has_it(
    hub, nano, nano_row, tmp_path
):
    weights = tmp_path / "weights" / REGISTERED_FILES[1]
    weights.parent.mkdir()
    save_file(eqx_clip.to_state_dict(nano), weights)
    hub.repos["org/first"] = {"main": {"README.md": b"", "open_clip_pytorch_model.bin": b"pickle"}}
    hub.add("org/second", weights.parent)
    assert bitwise_equal(eqx_clip.load(NANO, "tag-a"), nano)
    assert bitwise_equal(eqx_clip.load(NANO), nano)
    first = [line for line in hub.log if "org/first" in line]
    assert [line.rsplit("/")[-1] for line in first[:2]] == list(REGISTERED_FILES)
    hub.add("org/first", weights.parent)
    hub.log.clear()
    eqx_clip.load(NANO, "tag-a")
    assert not any("org/second" in line for line in hub.log)


@pytest.mark.parametrize("offline", [True, False])
def test_loads_from_a_cache_without_network(
    no_network, monkeypatch, nano, nano_row, tmp_path, offline
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    repo, commit = tmp_path / "elsewhere/models--org--second", "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    save_file(eqx_clip.to_state_dict(nano), repo / "snapshots" / commit / WEIGHTS)
    loaded = eqx_clip.load(NANO, "tag-a", cache_dir=tmp_path / "elsewhere")
    assert bitwise_equal(loaded, nano)
    loaded = eqx_clip.load(NANO, "tag-a", cache_dir=tmp_path / "elsewhere", revision=commit)
    assert bitwise_equal(loaded, nano)


@pytest.mark.parametrize("source", [["hf-hub:org/clip"], ["vit-base-patch32", "laion2b-e16"]])
@pytest.mark.parametrize("offline", [True, False])
def test_no_network_and_nothing_cached_is_one_error_after_one_try(
    no_network, monkeypatch, source, offline
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    tries = count_calls(monkeypatch, eqx_clip.checkpoints.hub, "hub_answers")
    naps = count_calls(monkeypatch, time, "sleep")
    with pytest.raises(WeightsNotFoundError) as info:
        eqx_clip.load(*source)
    assert len(tries) == 1
    assert not naps  # huggingface-hub would wait and try again for half a minute
    assert "the hub cannot be reached" in str(info.value)
    assert "`eqx_clip.load(folder)`" in str(info.value)
    assert isinstance(info.value, FileNotFoundError)


def count_calls(monkeypatch, module, name):
    calls, function = [], getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_no_such_repository(hub):
    with pytest.raises(WeightsNotFoundError, match="no such repository, or a private one"):
        eqx_clip.load("hf-hub:org/typo")
    with pytest.raises(WeightsNotFoundError, match="HFValidationError"):
        eqx_clip.load("hf-hub:not/a/repository")


def test_repository_without_configuration_names_it(hub):
    hub.repos["org/clip"] = {"main": {WEIGHTS: b"", "open_clip_pytorch_model.bin": b""}}
    with pytest.raises(WeightsNotFoundError, match=rf"org/clip/{CONFIG}: no such file") as info:
        eqx_clip.load("hf-hub:org/clip")
    assert "org/clip/config.json: no such file" in str(info.value)


def test_repository_of_pickles_is_refused_and_nothing_is_run(hub, folder):
    (folder / WEIGHTS).unlink()
    bomb = pickle.dumps(Bomb(folder / "exploded"))
    (folder / "open_clip_pytorch_model.bin").write_bytes(bomb)
    hub.add("org/clip", folder)
    with pytest.raises(ValueError, match="a bare pickle, which is never run"):
        eqx_clip.load("hf-hub:org/clip")
    assert not (folder / "exploded").exists()


class Bomb:
    """What opens its pickle makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth", "epoch_3.pt"])
def test_a_pickle_is_refused_and_not_run(folder, name, is_zip):
    (folder / WEIGHTS).unlink()
    bomb = pickle.dumps({"x": Bomb(folder / "exploded")}, protocol=2)
    (folder / name).write_bytes(bomb)
    if is_zip:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", bomb)
    words = "asks for '(posix|nt).mkdir', which is not run" if is_zip else "which is never run"
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(folder)
    (folder / CONFIG).unlink()
    for path in (folder / name, str(folder / name)):
        with pytest.raises(ValueError, match=words):
            eqx_clip.load(NANO, path)
    assert not (folder / "exploded").exists()


def test_a_pickle_under_the_name_of_safetensors_is_not_unpickled(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(folder / "exploded")))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        eqx_clip.load(folder)
    assert not (folder / "exploded").exists()
