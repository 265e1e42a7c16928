"""Uploads to the hub, whose HTTP interface `tests/hub.py` stands in for."""

import huggingface_hub.constants
import pytest
from helpers import bitwise_equal, tiny

import eqx_clip


# Of huggingface-hub's own call of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

FILES = {"open_clip_model.safetensors", "open_clip_config.json", "README.md"}


@pytest.fixture
def writable_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return hub


def test_what_was_pushed_is_loaded_equal_to_the_bit(writable_hub, model):
    url = eqx_clip.push_to_hub(model, "org/clip")
    assert url.startswith(f"{writable_hub.address}/org/clip/commit/")
    assert {*writable_hub.repos["org/clip"]["main"]} == FILES
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), model)
    assert not writable_hub.private


def test_a_push_is_one_commit_with_its_message_and_keeps_other_files(writable_hub, model):
    writable_hub.repos["org/clip"] = {"main": {"README.md": b"by hand", "notes.txt": b"notes"}}
    eqx_clip.push_to_hub(model, "org/clip", message="Epoch 3")
    files = writable_hub.repos["org/clip"]["main"]
    assert {*files} == FILES | {"notes.txt"}
    assert files["README.md"] == b"by hand"
    assert [commit["summary"] for commit in writable_hub.commits] == ["Epoch 3"]


def test_a_later_push_replaces_the_model(writable_hub, model):
    other = tiny(seed=1)
    eqx_clip.push_to_hub(model, "org/clip")
    eqx_clip.push_to_hub(other, "org/clip")
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), other)


def test_a_new_repository_may_be_private_and_a_push_may_go_to_a_branch(writable_hub, model):
    eqx_clip.push_to_hub(model, "org/hidden", private=True)
    assert writable_hub.private == {"org/hidden"}
    writable_hub.repos["org/clip"] = {"main": {}, "v2": {}}
    eqx_clip.push_to_hub(model, "org/clip", revision="v2")
    assert {*writable_hub.repos["org/clip"]["v2"]} == FILES
    assert not writable_hub.repos["org/clip"]["main"]


def test_the_model_card_names_both_libraries_and_the_sizes(writable_hub, model):
    eqx_clip.push_to_hub(model, "org/clip")
    card = writable_hub.repos["org/clip"]["main"]["README.md"].decode()
    metadata = huggingface_hub.ModelCard(card).data
    assert metadata.library_name == "open_clip"
    assert metadata.pipeline_tag == "zero-shot-image-classification"
    assert 'eqx_clip.load("hf-hub:org/clip")' in card
    assert 'open_clip.create_model_from_pretrained("hf-hub:org/clip")' in card
    parameters = sum(tensor.size for tensor in eqx_clip.to_state_dict(model).values())
    height, width = model.preprocess.image_size
    assert f"| {parameters:,} |" in card and f"| {height} x {width} pixels" in card
    assert "TimmViT" not in card and "| VisionTransformer |" in card


@pytest.mark.parametrize("repo", ["clip", "org/clip/main", "hf-hub:org/clip", "", None, "../clip"])
def test_what_is_no_name_of_a_repository_is_refused_before_anything_is_sent(hub, model, repo):
    with pytest.raises(ValueError, match="`repo` must be 'organisation/name'"):
        eqx_clip.push_to_hub(model, repo)
    assert not hub.log


def test_what_save_does_not_write_is_not_uploaded(writable_hub):
    with pytest.raises(ValueError, match="CLIP"):
        eqx_clip.push_to_hub({"not": "a model"}, "org/clip")
    assert not writable_hub.log


@pytest.mark.parametrize("token", ["", "hf_of_another"])
def test_without_a_token_that_may_write_the_remedy_is_named(
    writable_hub, model, monkeypatch, token
):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match="hf auth login"):
        eqx_clip.push_to_hub(model, "org/clip")
    assert "org/clip" not in writable_hub.repos


def test_a_branch_that_is_missing_is_an_error_that_names_the_repository(writable_hub, model):
    with pytest.raises(OSError, match="'org/clip'"):
        eqx_clip.push_to_hub(model, "org/clip", revision="v3")
    assert not writable_hub.commits


def test_what_breaks_off_is_an_error_with_its_cause_and_leaves_the_repository(writable_hub, model):
    eqx_clip.push_to_hub(model, "org/clip")
    writable_hub.full = True
    with pytest.raises(OSError, match="507"):
        eqx_clip.push_to_hub(tiny(seed=1), "org/clip")
    assert bitwise_equal(eqx_clip.load("hf-hub:org/clip"), model)


def test_without_network_the_folder_is_named(no_network, model):
    with pytest.raises(ConnectionError, match=r"eqx_clip.save\(model, folder\)"):
        eqx_clip.push_to_hub(model, "org/clip")
