"""The model at the end of a run."""

import fsspec
import pytest
from helpers import bitwise_equal, tiny

import eqx_clip
from eqx_clip import sharding, train


def test_a_model_on_a_mesh_is_exported(tmp_path):
    model = tiny()
    mesh = sharding.make_mesh(4, 2)
    train.export(sharding.place(model, mesh), str(tmp_path / "here"))
    assert bitwise_equal(eqx_clip.load(tmp_path / "here"), model)


def test_a_model_is_exported_far_away(tmp_path):
    model = tiny()
    train.export(model, "memory://bucket/run/open_clip")
    filesystem = fsspec.filesystem("memory")
    filesystem.get("/bucket/run/open_clip/", str(tmp_path / "back"), recursive=True)
    assert bitwise_equal(eqx_clip.load(tmp_path / "back"), model)


def test_save_does_not_take_a_bucket_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"train\.export"):
        eqx_clip.save(tiny(), "gs://bucket/model")
    assert not list(tmp_path.iterdir())
