"""`load`, `create` and `from_state_dict`: where weights come from, and what is refused."""

import copy
import dataclasses
import json
import os
import pickle
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import equinox as eqx
import huggingface_hub.constants
import huggingface_hub.hf_api
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from helpers import TINY_CONVNEXT, TINY_VIT, bitwise_equal, random_model, tiny
from jax.core import Tracer
from safetensors.numpy import load_file, save_file

import eqx_clip
from eqx_clip import (
    CLIPConfig,
    Preprocess,
    TextConfig,
    ViTConfig,
    WeightsNotFoundError,
    sharding,
)
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.files import safetensors as container
from eqx_clip.checkpoints.files.safetensors import SafetensorsFile
from eqx_clip.checkpoints.find import find
from eqx_clip.checkpoints.rows import state_dict
from eqx_clip.zoo import pretrained as registry
from eqx_clip.zoo.architectures import MODELS


NANO = "vit-nano-patch32"  # the smallest registered model
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def nano():
    return random_model(MODELS[NANO])


@pytest.fixture(scope="module")
def convnext_folder(tmp_path_factory):
    """A saved ConvNeXt, to be left as it is."""
    folder = tmp_path_factory.mktemp("convnext")
    eqx_clip.save(tiny(TINY_CONVNEXT), folder)
    return folder


@pytest.fixture
def folder(model, tmp_path):
    """A saved model; each test may damage its own."""
    eqx_clip.save(model, tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, path, value):
    """Sets `a.b.c` in the configuration."""
    config = json.loads((folder / CONFIG).read_text())
    *parents, last = path.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    (folder / CONFIG).write_text(json.dumps(config))


def edit_tensors(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


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
        (lambda folder: [folder / WEIGHTS], r"Name its architecture, `eqx_clip\.load\('vit-"),
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
    weights = tmp_path / "weights" / nano_row.files[1]
    weights.parent.mkdir()
    save_file(eqx_clip.to_state_dict(nano), weights)
    hub.repos["org/first"] = {"main": {"README.md": b"", "open_clip_pytorch_model.bin": b"pickle"}}
    hub.add("org/second", weights.parent)
    assert bitwise_equal(eqx_clip.load(NANO, "tag-a"), nano)
    assert bitwise_equal(eqx_clip.load(NANO), nano)
    first = [line for line in hub.log if "org/first" in line]
    assert [line.rsplit("/")[-1] for line in first[:2]] == list(nano_row.files)
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
    tries = count_calls(monkeypatch, eqx_clip.checkpoints.hub, "_hub_answers")
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


def test_repository_without_configuration_names_it_and_does_not_blame_pickles(hub):
    hub.repos["org/clip"] = {"main": {WEIGHTS: b"", "open_clip_pytorch_model.bin": b""}}
    with pytest.raises(WeightsNotFoundError, match=rf"org/clip/{CONFIG}: no such file") as info:
        eqx_clip.load("hf-hub:org/clip")
    assert "only pickles" not in str(info.value)
    assert "format of transformers, which does without it, is not read yet" in str(info.value)


def test_repository_of_pickles_is_refused_with_the_recipe_and_not_downloaded(hub, folder):
    (folder / WEIGHTS).rename(folder / "open_clip_pytorch_model.bin")
    hub.add("org/clip", folder)
    with pytest.raises(WeightsNotFoundError) as info:
        eqx_clip.load("hf-hub:org/clip")
    assert "only pickles: org/clip/open_clip_pytorch_model.bin" in str(info.value)
    assert "safetensors.torch.save_file" in str(info.value)
    assert not any(line.startswith("GET") and line.endswith(".bin") for line in hub.log)


class Bomb:
    """What opens its pickle makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def opened():
    """Every file that is opened, by Python's own account."""
    paths, active = [], [True]

    def hook(event, args):
        if active[0] and event == "open":
            paths.append(str(args[0]))

    sys.addaudithook(hook)  # for good: hooks cannot be taken away
    yield paths
    active[0] = False


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth", "epoch_3.pt"])
def test_folder_of_pickles_is_refused_with_the_recipe_and_not_opened(folder, name, opened):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(folder / "exploded")))
    opened.clear()
    with pytest.raises(WeightsNotFoundError, match=r"safetensors\.torch\.save_file"):
        eqx_clip.load(folder)
    for source in ([folder / name], [NANO, folder / name], [NANO, str(folder / name)]):
        with pytest.raises(ValueError, match=r"safetensors\.torch\.save_file"):
            eqx_clip.load(*source)
    assert not any(path.endswith(name) for path in opened)
    assert not (folder / "exploded").exists()


def test_a_pickle_under_the_name_of_safetensors_is_not_unpickled(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(folder / "exploded")))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        eqx_clip.load(folder)
    assert not (folder / "exploded").exists()


# Weights that are not whole, or not those of the configuration


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:200],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: np.random.default_rng(0).bytes(4096),
    ],
)
def test_a_damaged_file_is_refused(folder, damage):
    data = damage((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ValueError, match="not a whole safetensors file") as info:
        eqx_clip.load(folder)
    assert f"{len(data):,} bytes" in str(info.value) and str(folder) in str(info.value)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    "edit, words",
    [
        (drop("visual.proj"), r"1 tensors are missing, e\.g\. 'visual\.proj'"),
        (drop("transformer.resblocks.1.ln_2.bias"), r"'transformer\.resblocks\.1\.ln_2\.bias'"),
        (put("extra", np.zeros(3, np.float32)), r"1 tensors belong nowhere, e\.g\. 'extra'"),
        (put("visual.proj", np.zeros((24, 40), np.float32)), r"shape \(40, 24\).*has \(24, 40\)"),
        (put("logit_scale", np.zeros(2, np.float32)), r"'logit_scale' must have shape \(\)"),
        (
            put("visual.transformer.resblocks.2.ln_1.bias", np.zeros(1, np.float32)),
            r"resblocks\.2\.ln_1\.bias' must have shape \(40,\)",  # nothing is broadcast
        ),
        (put("visual.proj", np.zeros((40, 24), np.int32)), r"must be of floats; it is of int32"),
        (put("visual.proj", np.zeros((40, 24), bool)), r"must be of floats; it is of bool"),
        (put("logit_bias", np.zeros((), np.float32)), r"belong nowhere, e\.g\. 'logit_bias'"),
        (put("module.visual.proj", np.zeros((40, 24), np.float32)), r"tensors twice"),
        (put("_orig_mod.visual.proj", np.zeros((40, 24), np.float32)), r"tensors twice"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(folder, edit, words):
    edit_tensors(folder, edit)
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.load(folder)
    assert str(folder / WEIGHTS) in str(info.value)


def test_a_state_dict_of_transformers_is_recognised(folder):
    name = "vision_model.encoder.layers.0.self_attn.k_proj.weight"
    save_file({name: np.zeros((4, 4), np.float32)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="those of Hugging Face transformers"):
        eqx_clip.load(folder)


@pytest.mark.parametrize(
    "path, value, words",
    [
        # Sizes that are not those of the weights.
        ("model_cfg.vision_cfg.layers", 4, "12 tensors are missing"),
        ("model_cfg.vision_cfg.layers", 2, "12 tensors belong nowhere"),
        ("model_cfg.embed_dim", 25, "do not belong together"),
        ("model_cfg.text_cfg.vocab_size", 100, r"must have shape \(100, 36\)"),
        ("model_cfg.vision_cfg.image_size", 48, "37 positions, the weights have 25: .* no square"),
        ("model_cfg.init_logit_bias", -10, "missing, e.g. 'logit_bias'"),
        # Options that would change the numbers.
        ("model_cfg.vision_cfg.ls_init_value", 1e-5, "`ls_init_value=1e-05` in `vision_cfg`"),
        ("model_cfg.vision_cfg.attentional_pool", True, "`attentional_pool=True`"),
        ("model_cfg.vision_cfg.layers", [3, 4, 6, 3], "look like a ViT's; .* is of a RN"),
        ("model_cfg.vision_cfg.timm_model_name", "vit_base_patch16_224", "supported: convnext_"),
        ("model_cfg.vision_cfg.timm_model_name", ["convnext_base"], "supported: convnext_"),
        ("model_cfg.text_cfg.hf_model_name", "roberta-base", "`hf_model_name='roberta-base'`"),
        (
            "model_cfg.text_cfg.no_causal_mask",
            "no",
            "`no_causal_mask` in `text_cfg` must be true or",
        ),
        ("model_cfg.text_cfg.norm_kwargs", {"eps": 1e-6}, "`norm_kwargs="),
        ("model_cfg.vision_cfg.no_ln_pre", True, "2 tensors belong nowhere, e.g. 'visual.ln_pre"),
        ("model_cfg.vision_cfg.mlp_ration", 4, "`mlp_ration=4` in `vision_cfg` is not known"),
        ("model_cfg.multimodal_cfg", {"width": 1}, "`multimodal_cfg=.* in `model_cfg`"),
        (
            "model_cfg.vision_cfg.pool_type",
            "avg",
            "`pool_type='avg'` with `final_ln_after_pool=Fal",
        ),
        ("model_cfg.text_cfg.pool_type", "eos", "`pool_type='eos'` in `text_cfg` is not supported"),
        ("model_cfg.text_cfg.hf_tokenizer_name", ["openai/clip-vit-base-patch32"], "`hf_tokenizer"),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}, "`tokenizer_kwargs="),
        ("preprocess_cfg.mode", "L", "`mode='L'` must be 'RGB'"),
        # Values of another type, or out of range.
        ("model_cfg", [], "`model_cfg` must be an object"),
        ("model_cfg.vision_cfg", 3, "`vision_cfg` must be an object"),
        ("preprocess_cfg", "imagenet", "`preprocess_cfg` must be an object"),
        ("model_cfg.quick_gelu", "no", "`quick_gelu` must be true or false; got 'no'"),
        ("model_cfg.embed_dim", None, "`embed_dim` must be a whole number"),
        ("model_cfg.vision_cfg.width", "768", "`width` must be a whole number above 0; got '768'"),
        ("model_cfg.vision_cfg.width", 40.0, "`width` must be a whole number above 0; got 40.0"),
        ("model_cfg.vision_cfg.width", -40, "`width` must be a whole number above 0; got -40"),
        ("model_cfg.vision_cfg.width", True, "`width` must be a whole number above 0; got True"),
        ("model_cfg.vision_cfg.head_width", 0, "`head_width` must be a whole number above 0"),
        ("model_cfg.vision_cfg.head_width", 13, "`width=40` must be a multiple of `num_heads=3`"),
        ("model_cfg.vision_cfg.mlp_ratio", "4", "`mlp_ratio` must be a number above 0"),
        ("model_cfg.vision_cfg.image_size", None, "`image_size` must be a whole number above 0, o"),
        ("model_cfg.vision_cfg.image_size", [48], r"height, width\); got \(48,\)"),
        ("model_cfg.vision_cfg.image_size", [-48, 32], r"height, width\); got \(-48, 32\)"),
        ("model_cfg.vision_cfg.image_size", 4, "must hold at least one patch"),
        ("model_cfg.vision_cfg.patch_size", 8.0, "`patch_size` must be a whole number above 0, or"),
        ("model_cfg.text_cfg.heads", 5, "`width=36` must be a multiple of `num_heads=5`"),
        ("model_cfg.text_cfg.heads", 0, "`num_heads` must be a whole number above 0"),
        ("model_cfg.text_cfg.context_length", "13", "`context_length` must be a whole number"),
        ("model_cfg.init_logit_scale", "x", "`init_logit_scale` must be a finite number; got 'x'"),
        ("model_cfg.init_logit_bias", "x", "`init_logit_bias` must be a finite number; got 'x'"),
        ("preprocess_cfg.mean", [0.5, 0.5], "`mean` must be a number, or three"),
        ("preprocess_cfg.std", [1, 1, 0], "`std` must be a positive number"),
        ("preprocess_cfg.interpolation", "lanczos", "`interpolation` must be one of"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, path, value, words):
    edit_config(folder, path, value)
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.load(folder)
    assert str(folder) in str(info.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is not JSON"),
        ('{"model_cfg": ', "is not JSON"),
        ("\xff", "is not JSON"),
        ("[1, 2]", "must hold an object"),
        ("{}", "has no 'vision_cfg'.*It has: nothing"),
        ('{"vision_cfg": {}, "text_cfg": {}}', "no 'embed_dim'"),
        ('{"embed_dim": 24, "vision_cfg": {}}', "no 'text_cfg'"),
    ],
)
def test_a_broken_configuration_is_refused(folder, text, words):
    (folder / CONFIG).write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.load(folder)
    assert str(folder / CONFIG) in str(info.value)


def test_a_folder_without_configuration_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors, folder / WEIGHTS)  # and none within the file, either
    (folder / CONFIG).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"no '{CONFIG}'"):
        eqx_clip.load(folder)


def test_options_without_effect_and_defaults_are_accepted(model, folder):
    for path, value in [
        ("model_cfg.vision_cfg.patch_dropout", 0.5),
        ("model_cfg.vision_cfg.ls_init_value", None),
        ("model_cfg.vision_cfg.act_kwargs", {}),
        ("model_cfg.vision_cfg.output_tokens", True),
        ("model_cfg.text_cfg.pad_id", 0),
        ("model_cfg.text_cfg.no_causal_mask", False),
        ("model_cfg.quick_gelu", None),
        ("model_cfg.custom_text", True),
        ("model_cfg.text_cfg.pad_id", 1),
        ("model_cfg.text_cfg.hf_tokenizer_name", "openai/clip-vit-base-patch32"),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "lower"}),
        ("preprocess_cfg.mode", "RGB"),
        ("preprocess_cfg.crop_pct", 0.9),
        ("preprocess_cfg.num_classes", 0),
        ("_commit", "0123"),
    ]:
        edit_config(folder, path, value)
    assert bitwise_equal(eqx_clip.load(folder), model)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "openai/clip-vit-large-patch14-336",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "laion/CLIP-convnext_base_w-laion2B-s13B-b82K",
    ],
)
def test_a_tokenizer_that_is_clips_own_may_be_named(name):
    text = {**TINY_VIT["text_cfg"], "hf_tokenizer_name": name}
    assert config_from_open_clip({**TINY_VIT, "text_cfg": text}) == config_from_open_clip(TINY_VIT)
    # Its mode counts beside a name alone.
    text["tokenizer_mode"] = "clips"
    if name:
        with pytest.raises(ValueError, match="`tokenizer_mode='clips'`"):
            config_from_open_clip({**TINY_VIT, "text_cfg": text})
    else:
        config_from_open_clip({**TINY_VIT, "text_cfg": text})


def test_options_of_the_other_kind_of_tower_do_not_count(tmp_path):
    spelled_out = {
        **{"timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": False, "timm_drop": 0.0},
        **{"timm_model_name": None, "timm_model_pretrained": False, "timm_drop_path": None},
    }
    vit = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], **spelled_out}}
    assert config_from_open_clip(vit) == config_from_open_clip(TINY_VIT)
    vision = {**TINY_CONVNEXT["vision_cfg"], "ls_init_value": None, "pool_type": "tok"}
    vision["timm_model_name"] += ".fb_in22k"
    convnext = {**TINY_CONVNEXT, "vision_cfg": vision}
    assert config_from_open_clip(convnext) == config_from_open_clip(TINY_CONVNEXT)


def test_a_square_is_one_size_however_it_is_written():
    square = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": 48}}
    pair = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": [48, 48]}}
    assert config_from_open_clip(square) == config_from_open_clip(pair)


def test_a_folder_of_a_models_name_is_read_by_its_path(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eqx_clip.save(model, "convnext/base")
    assert bitwise_equal(eqx_clip.load("convnext/base"), model)


def test_pickles_are_named_where_the_configuration_is_missing_too(folder):
    (folder / WEIGHTS).rename(folder / "open_clip_pytorch_model.bin")
    (folder / CONFIG).unlink()
    with pytest.raises(WeightsNotFoundError, match="holds only pickles"):
        eqx_clip.load(folder)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_a_type_that_numpy_does_not_have_is_named(dtype, tmp_path):
    header = json.dumps({"logit_scale": {"dtype": dtype, "shape": [1], "data_offsets": [0, 1]}})
    data = len(header).to_bytes(8, "little") + header.encode() + b"0"
    (tmp_path / WEIGHTS).write_bytes(data)
    with SafetensorsFile(tmp_path / WEIGHTS) as file, pytest.raises(ValueError, match=dtype):
        file["logit_scale"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: eqx_clip.load(None), "`source` must be a name or a path; got None"),
        (lambda: eqx_clip.load(""), "`source` must be a name or a path; got ''"),
        (lambda: eqx_clip.load(NANO, ""), "`tag` must be a name or a path; got ''"),
        (lambda: eqx_clip.load(NANO, 3), "`tag` must be a name or a path; got 3"),
        (lambda: eqx_clip.create(5, key=jax.random.key(0)), "Expected a name, a CLIPConfig"),
        (lambda: eqx_clip.create(NANO, key=jax.random.key(0), dtype="float12"), "'float12'"),
        (lambda: eqx_clip.load("VIT_BASE_PATCH32x"), "Did you mean 'vit-base-patch32'"),
        (lambda: eqx_clip.from_state_dict(NANO, [("a", 1)]), "Expected a state dict"),
        (lambda: ViTConfig(**VIT, activation="relu"), "`activation` must be one of 'gelu', 'qu"),
        (lambda: eqx_clip.ConvNeXtConfig(**CONVNEXT, head="Linear"), "`head` must be one of"),
        (lambda: eqx_clip.ConvNeXtConfig(**CONVNEXT, image_size=7), "below 8 x 8 pixels; got a"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


VIT = {"patch_size": 8, "width": 8, "depth": 1, "num_heads": 1, "embed_dim": 8}
CONVNEXT = {"depths": (1, 1), "widths": (8, 8), "embed_dim": 8}


@pytest.mark.parametrize(
    "name", ["bert-base-uncased", "laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k"]
)
def test_a_model_of_another_tokenizer_loads_and_tokenizes_nothing(folder, model, name):
    edit_config(folder, "model_cfg.text_cfg.hf_tokenizer_name", name)
    edit_config(folder, "model_cfg.text_cfg.tokenizer_kwargs", {"strip_sep_token": True})
    loaded = eqx_clip.load(folder)
    assert bitwise_equal(loaded.text, model.text)
    assert loaded.tokenizer.context_length == 13
    with pytest.raises(ValueError, match=f"the token ids of {name!r}, a tokenizer that eqx_clip"):
        loaded.tokenize(["a cat"])
    eqx_clip.save(loaded, folder / "again")
    assert eqx_clip.load(folder / "again").tokenizer == loaded.tokenizer


def test_numbers_of_numpy_are_numbers():
    numpy = {name: np.int64(value) for name, value in VIT.items()}
    config = ViTConfig(**numpy, mlp_ratio=np.float32(2))
    assert config == ViTConfig(**VIT, mlp_ratio=2)
    types = {type(value) for value in dataclasses.asdict(config).values()}
    assert types <= {int, float, str, bool}


# Spellings of a state dict


def renamed(rename):
    def edit(tensors):
        items = [(rename(name), tensor) for name, tensor in tensors.items()]
        tensors.clear()
        tensors.update(items)

    return edit


def custom_text(name):
    return name if name.startswith(("visual.", "logit_")) else f"text.{name}"


@pytest.mark.parametrize(
    "edit",
    [
        renamed(lambda name: f"module.{name}"),
        renamed(custom_text),
        renamed(lambda name: f"module.{custom_text(name)}"),
        lambda tensors: tensors.update(logit_scale=tensors["logit_scale"].reshape(1)),
        renamed(lambda name: f"_orig_mod.{name}"),
        renamed(lambda name: f"module._orig_mod.{name}"),
        renamed(lambda name: f"_orig_mod.module.{name}"),
        renamed(lambda name: f"_orig_mod.module.{custom_text(name)}"),
        renamed(lambda name: name.replace("visual.", "visual._orig_mod.")),
        renamed(lambda name: name.replace(".resblocks.", ".resblocks._fsdp_wrapped_module.")),
    ],
    ids=[
        "module",
        "text",
        "module and text",
        "one-element logit scale",
        "compiled",
        "compiled, then distributed",
        "distributed, then compiled",
        "compiled with a separate text tower",
        "one tower compiled",
        "sharded",
    ],
)
def test_openclips_other_spellings_load(model, folder, edit):
    edit_tensors(folder, edit)
    assert bitwise_equal(eqx_clip.load(folder), model)


# Dtypes


def cast(model, *dtypes):
    """Every leaf cast to each of `dtypes` in turn, by NumPy: JAX compiles for each shape."""

    def cast_leaf(leaf):
        for dtype in dtypes:
            leaf = np.asarray(leaf).astype(jnp.dtype(dtype))
        return jnp.asarray(leaf)

    return jax.tree.map(cast_leaf, model)


def dtypes(model):
    return {leaf.dtype.name for leaf in jax.tree.leaves(model)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", jnp.float32])
def test_dtype_is_that_of_every_leaf(model, folder, dtype):
    assert bitwise_equal(eqx_clip.load(folder, dtype=dtype), cast(model, dtype))
    assert dtypes(eqx_clip.load(folder, dtype=dtype)) == {jnp.dtype(dtype).name}


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float64"])
def test_a_file_of_another_dtype_loads_as_float32(model, folder, stored):
    edit_tensors(
        folder,
        lambda tensors: tensors.update(
            {name: tensor.astype(jnp.dtype(stored)) for name, tensor in tensors.items()}
        ),
    )
    assert bitwise_equal(eqx_clip.load(folder), cast(model, stored, "float32"))
    if stored != "float64":
        assert dtypes(eqx_clip.load(folder, dtype=stored)) == {stored}


def test_float64_needs_the_64_bit_mode(folder):
    tensors = load_file(folder / WEIGHTS)
    for refused in (
        lambda: eqx_clip.load(folder, dtype="float64"),
        lambda: eqx_clip.load("hf-hub:not/looked/up", dtype="float64"),  # before any download
        lambda: eqx_clip.from_state_dict(TINY_VIT, tensors, dtype="float64"),
        lambda: eqx_clip.create(NANO, key=jax.random.key(0), dtype="float64"),
    ):
        with pytest.raises(ValueError, match=r"needs JAX's 64-bit mode: `jax\.config"):
            refused()


def test_float64_in_the_64_bit_mode(folder, model, x64):
    loaded = eqx_clip.load(folder, dtype="float64")
    assert dtypes(loaded) == {"float64"}
    assert dtypes(eqx_clip.load(folder)) == {"float32"}  # asked for or not, never by the mode
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(model), strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("dtype", ["int8", bool, "complex64"])
def test_other_dtypes_are_refused(folder, dtype):
    with pytest.raises(ValueError, match="must be of floats"):
        eqx_clip.load(folder, dtype=dtype)


def test_from_state_dict_keeps_or_casts_dtypes_and_copies(model):
    tensors = {k: np.array(v) for k, v in eqx_clip.to_state_dict(model).items()}
    loaded = eqx_clip.from_state_dict(TINY_VIT, tensors)
    for tensor in tensors.values():
        tensor[...] = 0
    assert bitwise_equal(loaded, model)
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert dtypes(eqx_clip.from_state_dict(TINY_VIT, half)) == {"float16"}
    assert dtypes(eqx_clip.from_state_dict(TINY_VIT, half, dtype="bfloat16")) == {"bfloat16"}


# What a load does and leaves behind


def test_equal_checkpoints_have_equal_structures_and_compile_once(model, folder, tmp_path):
    other = tiny(seed=1)
    eqx_clip.save(other, tmp_path / "other")
    traces = []

    @eqx.filter_jit
    def logit_scale(model):
        traces.append(model)
        return jnp.exp(model.logit_scale)

    first, second, again = (eqx_clip.load(f) for f in (folder, tmp_path / "other", folder))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert hash(jax.tree.structure(first)) == hash(jax.tree.structure(second))
    for loaded in (first, second, again, model, eqx_clip.from_state_dict(TINY_VIT, tensors(model))):
        logit_scale(loaded)
    assert len(traces) == 1


def tensors(model):
    return eqx_clip.to_state_dict(model)


def test_models_of_different_activation_or_statistics_do_not_share_a_compilation(model, folder):
    edit_config(folder, "model_cfg.quick_gelu", True)
    assert jax.tree.structure(eqx_clip.load(folder)) != jax.tree.structure(model)
    edit_config(folder, "model_cfg.quick_gelu", False)
    edit_config(folder, "preprocess_cfg.mean", 0.5)
    assert jax.tree.structure(eqx_clip.load(folder)) != jax.tree.structure(model)


def test_every_leaf_is_an_array(model, folder, convnext_folder):
    for loaded in (model, *map(eqx_clip.load, (folder, convnext_folder))):
        leaves = jax.tree.leaves(loaded)
        assert all(eqx.is_array(leaf) and not leaf.weak_type for leaf in leaves)


def test_nothing_is_initialised_at_random(folder, monkeypatch):
    seen = []

    def abstract_only(function):
        def wrapped(key, *args, **kwargs):
            # Without jit a key is abstract nowhere but under `eval_shape`, which computes nothing.
            assert isinstance(key, Tracer)
            seen.append(function)
            return function(key, *args, **kwargs)

        return wrapped

    for name in ("normal", "uniform", "split"):
        monkeypatch.setattr(jax.random, name, abstract_only(getattr(jax.random, name)))
    with jax.disable_jit():
        eqx_clip.load(folder)
    assert len(seen) > 10


def test_there_is_no_second_copy_of_the_weights(tmp_path, monkeypatch):
    # Many tensors and none that is large: the one being read may be there twice.
    vision = {**TINY_VIT["vision_cfg"], "width": 120, "layers": 12}
    text = {**TINY_VIT["text_cfg"], "vocab_size": 100}
    model = tiny({**TINY_VIT, "vision_cfg": vision, "text_cfg": text})
    eqx_clip.save(model, tmp_path)
    eqx_clip.load(tmp_path)
    new_pages, filled = state_dict._new_pages, []

    def record(*arguments):
        array = new_pages(*arguments)
        filled.append(array.ctypes.data)
        return array

    monkeypatch.setattr(state_dict, "_new_pages", record)
    tracemalloc.start()
    try:
        leaves = jax.tree.leaves(eqx_clip.load(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The leaves are the memory that was filled, and next to it there was little.
    assert sorted(leaf.unsafe_buffer_pointer() for leaf in leaves) == sorted(filled)
    assert peak < 2**20 < sum(leaf.nbytes for leaf in leaves) / 4


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
def test_the_file_is_neither_open_nor_mapped_afterwards(model, folder):
    loaded = eqx_clip.load(folder)
    edit_tensors(folder, drop("visual.proj"))
    with pytest.raises(ValueError, match="missing"):
        eqx_clip.load(folder)
    links = [os.readlink(fd.path) for fd in os.scandir("/proc/self/fd") if os.path.exists(fd.path)]
    assert not any(str(folder) in link for link in links)
    assert str(folder) not in Path("/proc/self/maps").read_text()
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
    assert bitwise_equal(loaded, model)  # it does not look at the file any more


# Other sizes


def test_the_size_that_is_there_already_changes_nothing(model, folder):
    assert bitwise_equal(eqx_clip.load(folder, image_size=(48, 32), context_length=13), model)


def test_image_size_resizes_positions_and_preprocessing(model, folder):
    resized: Any = eqx_clip.load(folder, image_size=(64, 48))
    assert resized.preprocess == Preprocess(image_size=(64, 48))
    assert resized.image.config.image_size == (64, 48)
    positions, old = resized.image.positional_embedding, model.image.positional_embedding
    assert positions.shape == (1 + 8 * 6, 40)
    assert jnp.all(positions[0] == old[0])  # the class token is no patch
    assert bitwise_equal(resized.text, model.text)
    image = jax.ShapeDtypeStruct((3, 64, 48), jnp.float32)
    assert jax.eval_shape(resized.encode_image, image).shape == (24,)


def test_image_size_of_a_convnext_is_the_preprocessings(convnext_folder):
    model = eqx_clip.load(convnext_folder)
    resized: Any = eqx_clip.load(convnext_folder, image_size=96)
    assert model.preprocess.image_size == 64
    assert resized.preprocess.image_size == resized.image.config.image_size == 96
    for ours, theirs in zip(jax.tree.leaves(resized), jax.tree.leaves(model), strict=True):
        assert np.array_equal(ours, theirs)


def test_context_length_resizes_positions_and_tokenizer(model, folder):
    for length in (5, 20):
        resized: Any = eqx_clip.load(folder, context_length=length)
        assert resized.text.positional_embedding.shape == (length, 36)
        assert resized.tokenize("a dog").shape == (1, length)
        assert bitwise_equal(resized.image, model.image)


def test_resized_bfloat16_is_the_resized_float32_rounded_once(folder):
    options = {"image_size": (64, 48), "context_length": 20}
    expected = cast(eqx_clip.load(folder, **options), "bfloat16")
    assert bitwise_equal(eqx_clip.load(folder, dtype="bfloat16", **options), expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_size": 0}, "`image_size` must be a positive whole number"),
        ({"image_size": "48"}, "`image_size` must be a positive whole number"),
        ({"image_size": (48, 32, 3)}, "`image_size` must be a positive whole number"),
        ({"image_size": 4}, "must hold at least one patch"),
        ({"context_length": 0}, "`context_length` must be a whole number above 0"),
        ({"context_length": 1}, "`context_length` must be at least 2"),
        ({"context_length": 9.0}, "`context_length` must be a whole number above 0"),
    ],
)
def test_impossible_sizes_are_refused(folder, options, words):
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(folder, **options)


# Weights of another size than their configuration says. What they are resized to, and how, is
# compared with OpenCLIP in tests/parity.


def positions(model):
    return [np.asarray(tower.positional_embedding) for tower in (model.image, model.text)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_the_size_that_is_asked_for_are_taken_as_they_are(folder, dtype):
    tuned: Any = eqx_clip.load(folder, image_size=(80, 64), context_length=21, dtype=dtype)
    save_file(eqx_clip.to_state_dict(tuned), folder / WEIGHTS)
    loaded = eqx_clip.load(folder, image_size=(80, 64), context_length=21, dtype=dtype)
    assert bitwise_equal(loaded, tuned)


def test_weights_of_another_size_are_resized_to_the_configurations(folder):
    tuned: Any = eqx_clip.load(folder, image_size=64, context_length=21)
    save_file(eqx_clip.to_state_dict(tuned), folder / WEIGHTS)
    loaded: Any = eqx_clip.load(folder)
    assert loaded.preprocess.image_size == (48, 32) and loaded.tokenizer.context_length == 13
    assert [len(x) for x in positions(loaded)] == [25, 13]
    resized: Any = eqx_clip.load(folder, image_size=32, context_length=8)
    assert [len(x) for x in positions(resized)] == [17, 8]
    for model in (loaded, resized):
        assert np.array_equal(positions(model)[0][0], positions(tuned)[0][0])  # the class token
        assert bitwise_equal(model.image.stack, tuned.image.stack)


@pytest.mark.parametrize("options", [{}, {"image_size": 96}, {"context_length": 7}], ids=str)
def test_a_file_of_a_name_is_resized_to_what_is_asked_for_or_the_names(nano, tmp_path, options):
    path = tmp_path / "weights.safetensors"
    eqx_clip.save(nano, tmp_path / "nano")
    tuned = eqx_clip.load(tmp_path / "nano", image_size=160, context_length=20)
    save_file(eqx_clip.to_state_dict(tuned), path)
    loaded: Any = eqx_clip.load(NANO, path, **options)
    size, length = options.get("image_size", 224), options.get("context_length", 77)
    assert loaded.preprocess.image_size == loaded.image.config.image_size == size
    assert [len(x) for x in positions(loaded)] == [1 + (size // 32) ** 2, length]


def test_a_file_with_a_configuration_of_another_size_has_that_size(nano, tmp_path):
    eqx_clip.save(nano, tmp_path / "nano")
    tuned = eqx_clip.load(tmp_path / "nano", image_size=160, context_length=20)
    eqx_clip.save(tuned, tmp_path / "tuned")
    assert bitwise_equal(eqx_clip.load(NANO, tmp_path / "tuned" / WEIGHTS), tuned)
    back: Any = eqx_clip.load(NANO, tmp_path / "tuned" / WEIGHTS, image_size=224)
    assert back.preprocess.image_size == 224 and back.tokenizer.context_length == 20


@pytest.mark.parametrize("count", [24, 2, 1, 0])
def test_positions_that_are_no_square_are_refused_with_the_remedy(folder, count):
    edit_tensors(folder, put("visual.positional_embedding", np.zeros((count, 40), np.float32)))
    words = rf"25 positions, the weights have {count}.*`image_size=\(height, width\)`"
    for options in ({}, {"image_size": 64}):
        if count != 2:  # one patch is a square
            with pytest.raises(ValueError, match=words) as info:
                eqx_clip.load(folder, **options)
            assert "torch" not in str(info.value)
    if count == 2:
        eqx_clip.load(folder)


@pytest.mark.parametrize(
    "name, shape", [("positional_embedding", (36,)), ("positional_embedding", (12, 35))]
)
def test_positions_of_another_kind_are_refused_by_their_shape(folder, name, shape):
    edit_tensors(folder, put(name, np.zeros(shape, np.float32)))
    with pytest.raises(ValueError, match=rf"'{name}' must have shape \(13, 36\)") as info:
        eqx_clip.load(folder)
    assert "torch" not in str(info.value)


# Configurations of absurd size

CONTENTS = "model_cfg.vision_cfg.", "model_cfg.text_cfg.", "model_cfg.", "preprocess_cfg."
HUGE = 10**400  # beyond floats
ABSURD = [
    *(f"{section}{name}" for section in CONTENTS[:2] for name in ("layers", "width", "mlp_ratio")),
    *(f"{CONTENTS[0]}{name}" for name in ("image_size", "patch_size", "head_width")),
    *(f"{CONTENTS[1]}{name}" for name in ("context_length", "vocab_size", "heads")),
    *("model_cfg.embed_dim", "model_cfg.init_logit_scale", "model_cfg.init_logit_bias"),
    *("preprocess_cfg.mean", "preprocess_cfg.std", "preprocess_cfg.fill_color"),
]
NUMBERS = ("init_logit_scale", "init_logit_bias", "mean", "std")  # of any size in float32


@pytest.mark.parametrize("value", [10**9, 2**63, HUGE, -HUGE, 1e308, float("inf"), float("nan")])
@pytest.mark.parametrize("path", ABSURD)
def test_a_configuration_of_absurd_size_is_refused_before_anything_is_read(
    folder, path, value, monkeypatch
):
    if path.endswith(NUMBERS) and value in (10**9, 2**63):
        return
    edit_config(folder, path, value)
    read: list[str] = []
    monkeypatch.setattr(state_dict, "_fill_leaf", lambda entry, *_: read.append(entry.path))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as info:
            eqx_clip.load(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not read and peak < 2**24
    assert len(str(info.value)) < 2000 and str(folder) in str(info.value)


@pytest.mark.parametrize("layers", [100_000, 10**9, 2**62])
def test_more_blocks_than_the_file_holds_are_counted_and_not_listed(folder, layers):
    edit_config(folder, "model_cfg.text_cfg.layers", layers)
    words = f"does not fit: it has 74 tensors, a model of this configuration {12 * layers + 50:,}"
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(folder)


@pytest.mark.parametrize(
    "text",
    ['{"model_cfg": ' * 50_000, "[" * 200_000, "9" * 5000, '{"' + "k" * 10**6 + '": 1}'],
    ids=["deep object", "deep list", "5,000 digits", "long key"],
)
def test_json_that_python_cannot_take_is_refused(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(ValueError) as info:
        eqx_clip.load(folder)
    assert len(str(info.value)) < 1000


@pytest.mark.parametrize("section", ["model_cfg", "vision_cfg", "text_cfg", "preprocess_cfg"])
@pytest.mark.parametrize("value", [None, True, 0, -1, "x" * 10**6, [[[]]], {"a": {"b": []}}])
def test_any_section_of_another_type_is_refused_in_few_words(folder, section, value):
    if section == "preprocess_cfg" and not (value and value != -1):
        return  # as if it were not there
    path = section if section in ("model_cfg", "preprocess_cfg") else f"model_cfg.{section}"
    edit_config(folder, path, value)
    if section == "preprocess_cfg" and isinstance(value, dict):
        eqx_clip.load(folder)  # keys that OpenCLIP leaves aside
    else:
        with pytest.raises(ValueError) as info:
            eqx_clip.load(folder)
        assert len(str(info.value)) < 1000


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"width": 2**40, "num_heads": 1}, "GiB"),
        ({"depth": 10**9}, "parameters, .* GiB, and here are"),
        ({"vocab_size": 2**62}, "parameters, .* GiB, and here are"),
        ({"width": 10**30}, r"`width` must be below 2\*\*63; got an integer of 100 bits"),
        ({"mlp_ratio": 1e300}, "`mlp_ratio=1e\\+300` must give a hidden layer"),
        ({"mlp_ratio": 1e-9}, "`mlp_ratio=1e-09` must give a hidden layer of at least one"),
        ({"mlp_ratio": HUGE}, "`mlp_ratio` must be a number above 0; got an integer of 1329 bits"),
        ({"context_length": 10**6}, "`context_length` must give at most 65,536 tokens"),
    ],
)
def test_create_refuses_absurd_sizes_before_memory_is_taken(sizes, words):
    def config():
        return dataclasses.replace(
            SMALL_CONFIG, text=dataclasses.replace(SMALL_CONFIG.text, **sizes)
        )

    with pytest.raises(ValueError, match=words):
        eqx_clip.create(config(), key=jax.random.key(0))


def test_shapes_of_a_model_beyond_memory_can_be_asked_for():
    text = dataclasses.replace(SMALL_CONFIG.text, vocab_size=2**50)
    config = dataclasses.replace(SMALL_CONFIG, text=text)
    model: Any = eqx.filter_eval_shape(
        lambda key: eqx_clip.create(config, key=key), jax.random.key(0)
    )
    assert model.text.token_embedding.shape == (2**50, 16)


def test_sides_of_images_have_a_limit():
    for call in (
        lambda: Preprocess(image_size=2**16 + 1),
        lambda: Preprocess(image_size=1e300),
        lambda: eqx_clip.ConvNeXtConfig(**CONVNEXT, image_size=2**16 + 1),
        lambda: ViTConfig(**VIT, image_size=(2**16 + 1, 8)),
    ):
        with pytest.raises(ValueError, match=r"`image_size` must be .*65,?536"):
            call()


# New models

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16,
        "layers": 1,
        "width": 16,
        "head_width": 8,
        "patch_size": 8,
        "mlp_ratio": 2,
    },
    "text_cfg": {
        "context_length": 8,
        "vocab_size": 64,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "mlp_ratio": 2,
    },
}
# One object, which JAX compiles for once: seconds each time.
SMALL_CONFIG = CLIPConfig(
    image=ViTConfig(
        image_size=16, patch_size=8, width=16, depth=1, num_heads=2, mlp_ratio=2, embed_dim=16
    ),
    text=TextConfig(
        context_length=8, vocab_size=64, width=16, depth=1, num_heads=2, mlp_ratio=2, embed_dim=16
    ),
    preprocess=Preprocess(image_size=16),
    init_logit_scale=2,
    init_logit_bias=-10.0,
)


def test_a_key_of_either_kind_is_taken():
    typed = eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0))
    assert bitwise_equal(eqx_clip.create(SMALL_CONFIG, key=jax.random.PRNGKey(0)), typed)


@pytest.mark.parametrize("key", [0, None, "0", 1.5, np.int64(3), np.zeros(2), "keys", "raw keys"])
def test_what_is_no_key_is_refused_with_the_remedy(key):
    if isinstance(key, str) and key != "0":
        make = jax.random.key if key == "keys" else jax.random.PRNGKey
        key = jax.random.split(make(0), 3)
    for make in (
        lambda: eqx_clip.create(SMALL_CONFIG, key=key),
        lambda: SMALL_CONFIG.build(key=key),
    ):
        with pytest.raises(ValueError, match=r"must be one random key, such as `jax\.random\.key"):
            make()


def test_create_depends_on_nothing_but_configuration_and_key():
    model = eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0))
    assert dtypes(model) == {"float32"}
    assert model.logit_scale == 2 and model.logit_bias == -10
    assert bitwise_equal(model, eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0)))
    assert not bitwise_equal(model, eqx_clip.create(SMALL_CONFIG, key=jax.random.key(1)))
    half = eqx_clip.create(SMALL_CONFIG, key=jax.random.key(0), dtype="bfloat16")
    assert bitwise_equal(half, cast(model, "bfloat16"))
    assert all(not leaf.weak_type for leaf in jax.tree.leaves(model))
    jax.config.update("jax_enable_x64", True)
    try:
        same = eqx_clip.create(
            copy.deepcopy(SMALL), key=jax.random.key(0), init_logit_scale=2, init_logit_bias=-10
        )
    finally:
        jax.config.update("jax_enable_x64", False)
    assert bitwise_equal(model, same)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"name_or_config": "vit-base-patch23"}, r"Did you mean 'vit-base-patch32'"),
        ({"name_or_config": {"embed_dim": 3}}, "has no 'vision_cfg'"),
        ({"dtype": "int8"}, "`dtype` must be of floats, one of 'float32', 'bfloat16', "),
        ({"dtype": "float8_e5m2"}, "`dtype` must be of floats"),
        ({"dtype": "flaot32"}, "`dtype` must be of floats"),
        ({"image_size": 4}, "must hold at least one patch"),
        ({"init_logit_scale": float("nan")}, "`init_logit_scale` must be a finite number"),
        ({"init_logit_bias": float("inf")}, "`init_logit_bias` must be a finite number"),
    ],
)
def test_create_refuses_what_cannot_be_built(options, words):
    with pytest.raises(ValueError, match=words):
        eqx_clip.create(**{"name_or_config": SMALL, "key": jax.random.key(0), **options})


def test_tensors_that_cannot_be_read_are_named(model):
    class Tensor:
        def __array__(self, *_, **__):
            raise TypeError("Got unsupported ScalarType BFloat16")

    tensors = {**eqx_clip.to_state_dict(model), "visual.proj": Tensor()}
    with pytest.raises(ValueError, match=r"'visual\.proj' cannot be read.*BFloat16.*float\(\)"):
        eqx_clip.from_state_dict(TINY_VIT, tensors)


def test_a_stack_of_mixed_types_has_the_widest_and_runs(model):
    tensors = eqx_clip.to_state_dict(model)
    for name in ("visual.transformer.resblocks.0.ln_1.weight", "token_embedding.weight"):
        tensors[name] = tensors[name].astype(np.float16)
    tensors["positional_embedding"] = tensors["positional_embedding"].astype(np.float16)
    loaded = eqx_clip.from_state_dict(TINY_VIT, tensors)
    assert loaded.image.stack.block.ln_1.weight.dtype == jnp.float32
    assert loaded.text.token_embedding.dtype == jnp.float16
    assert loaded.encode_text(np.arange(13)).dtype == jnp.float32


def test_sizes_that_openai_stored_as_tensors_are_ignored(model):
    legacy = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), np.int64(7))
    tensors = {**eqx_clip.to_state_dict(model), **legacy}
    assert bitwise_equal(eqx_clip.from_state_dict(TINY_VIT, tensors), model)


# Where the arrays go, and how much memory that takes


def test_arrays_go_to_the_device_or_sharding_asked_for(model, folder):
    device = jax.devices()[-1]
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)), jax.sharding.PartitionSpec()
    )
    for where in (device, sharding):
        loaded = eqx_clip.load(folder, device=where)
        assert bitwise_equal(loaded, model)
        for leaf in jax.tree.leaves(loaded):
            assert where in (leaf.sharding, *leaf.devices())


def test_arrays_are_spread_over_a_mesh(model, folder):
    mesh = sharding.make_mesh(2, 2)
    loaded = eqx_clip.load(folder, device=mesh)
    assert bitwise_equal(loaded, model)
    expected = jax.tree.leaves(sharding.shardings(model, mesh))
    assert any(where.spec != jax.sharding.PartitionSpec() for where in expected)
    assert [leaf.sharding for leaf in jax.tree.leaves(loaded)] == expected


def test_what_is_no_place_for_arrays_is_refused(folder):
    for wrong in ("cpu", jax.devices()):
        with pytest.raises(ValueError, match=r"`device` must be a .* a Mesh; got"):
            eqx_clip.load(folder, device=wrong)
    mesh = sharding.make_mesh(1, 8)
    uneven = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    with pytest.raises(ValueError, match=r"an array of shape .* cannot be placed .*make_mesh"):
        eqx_clip.load(folder, device=uneven)
    other = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    with pytest.raises(ValueError, match=r"with axes 'data' and 'fsdp'; got \('model',\)"):
        eqx_clip.load(folder, device=other)


def test_files_are_closed_and_opened_anew_so_that_few_pages_stay_mapped(model, folder, monkeypatch):
    opened, safe_open = [], safetensors.safe_open

    def counted(*arguments, **options):
        opened.append(arguments)
        return safe_open(*arguments, **options)

    monkeypatch.setattr(safetensors, "safe_open", counted)
    monkeypatch.setattr(container, "MAPPED", 10_000)
    assert bitwise_equal(eqx_clip.load(folder), model)
    assert len(opened) > 5
