"""Files alone: what their tensors say, and what is missing."""

import logging
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from big_vision_files import arrays_of, register
from folders import CONFIG, NANO, WEIGHTS
from helpers import (
    TINY_CLIPA,
    TINY_CONVNEXT,
    TINY_RESNET,
    TINY_SIGLIP,
    TINY_VIT,
    TINY_WORLDWIDE,
    bitwise_equal,
    random_model,
    tiny,
)
from safetensors.numpy import load_file, save_file

import eqx_clip
from eqx_clip.checkpoints import recognize
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.convert import skeleton
from eqx_clip.checkpoints.format import BIG_VISION, OPEN_CLIP, TRANSFORMERS, form_of
from eqx_clip.checkpoints.recognize import recognized, sizes_of
from eqx_clip.checkpoints.rows.state_dict import entries
from eqx_clip.zoo.architectures import MODELS, model_config
from eqx_clip.zoo.pretrained import PRETRAINED


SQUARE = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": 48}}


class Shapes(dict):
    """A state dict of zeros, by shapes alone."""

    def __getitem__(self, key):
        return np.zeros(self.shape(key), np.float32)

    def shape(self, key):
        return super().__getitem__(key)


def shapes_of(config, form=OPEN_CLIP):
    model = skeleton(config)
    rows = entries(model, form.table(model))
    return Shapes({name: shape for entry in rows for name, shape in entry.shapes.items()})


SIGLIPS = [name for name in MODELS if "SigLIP" in name]
CASES = [
    *((name, OPEN_CLIP) for name in MODELS),
    *((name, BIG_VISION) for name in SIGLIPS),
    *((name, TRANSFORMERS) for name in ("vit-base-patch32", "ViT-g-14")),
]


@pytest.mark.parametrize(("name", "form"), CASES, ids=lambda x: getattr(x, "name", x))
def test_every_registered_model_has_the_sizes_of_its_tensors(name, form):
    tensors = shapes_of(MODELS[name], form)
    assert form_of(tensors) is form
    sizes = sizes_of(tensors, form)
    fitting = [other for other in MODELS if sizes.are_of(MODELS[other])]
    same = {"ViT-SO400M-14-SigLIP-378", "ViT-SO400M-14-SigLIP-384"}
    assert set(fitting) == (same if name in same else {name})


# What loads by itself, and what the others lack.


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-B-32-256", "convnext-base", "ViT-S-16"])
def test_where_all_that_is_registered_agrees_it_is_taken(name, tmp_path):
    config = recognized(shapes_of(model_config(name)), OPEN_CLIP, tmp_path / "x.pt")
    assert config == model_config(name)
    rows = [row.config for row in PRETRAINED if row.config.image == config.image]
    assert all(row == config for row in rows if row.text == config.text)


@pytest.mark.parametrize(
    "name, words",
    [
        ("ViT-B-32", r"'vit-base-patch32', 'ViT-B-32-quickgelu'\..* image\.activation \(gelu or q"),
        (
            "ViT-L-14",
            r"preprocess\.mean \(\(0\.48.* or \(0\.5, 0\.5, 0\.5\)\), ",
        ),
        (
            "RN50",
            r"'RN50', 'RN50-quickgelu'\..*: text\.activation \(gelu or quick_gelu\)\. N",
        ),
        ("convnext_xxlarge", r"'convnext_xxlarge_320'\..* image\.image_size \(256 or 320\)"),
        ("ViT-SO400M-14-SigLIP-384", r"'ViT-SO400M-14-SigLIP-378', .*image_size \(378 or 384\)"),
    ],
)
def test_where_it_differs_the_error_says_in_what(name, words, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.pt is a file alone, with the sizes of .*{words}"):
        recognized(shapes_of(model_config(name)), OPEN_CLIP, tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14-336", "RN50x4"])
def test_openais_archives_are_openais(name, tmp_path):
    tensors = shapes_of(model_config(name))
    tensors |= {key: () for key in ("input_resolution", "context_length", "vocab_size")}
    config = recognized(Shapes(tensors), OPEN_CLIP, tmp_path / "x.pt")
    assert config == model_config(f"{name}-quickgelu")
    odd = shapes_of(model_config("ViT-B-32-256"))
    odd |= {key: () for key in ("input_resolution", "context_length", "vocab_size")}
    with pytest.raises(ValueError, match="with the sizes of 'ViT-B-32-256'"):
        recognized(Shapes(odd), OPEN_CLIP, tmp_path / "x.pt")


@pytest.mark.parametrize(
    "config",
    [TINY_VIT, TINY_CLIPA, TINY_CONVNEXT, TINY_RESNET, TINY_SIGLIP, TINY_WORLDWIDE],
    ids=["vit", "clipa", "convnext", "resnet", "siglip", "worldwide"],
)
def test_sizes_that_nothing_registered_has_are_told(config, tmp_path):
    config = config_from_open_clip(config)
    with pytest.raises(ValueError, match=r"model has: .*What tensors do not tell") as e:
        recognized(shapes_of(config), OPEN_CLIP, tmp_path / "x.pt")
    assert f"depth {config.text.depth}" in str(e.value)
    assert f"vocab_size {config.text.vocab_size}" in str(e.value)


def test_tensors_of_no_family_are_told(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"no family that is recognised\. Name its architecture"):
        eqx_clip.load(tmp_path / "x.safetensors")


def test_a_logit_bias_counts():
    tensors = shapes_of(MODELS[NANO])
    assert sizes_of(tensors, OPEN_CLIP).are_of(MODELS[NANO])
    assert not sizes_of(Shapes({**tensors, "logit_bias": ()}), OPEN_CLIP).are_of(MODELS[NANO])


# Whole files


@pytest.mark.parametrize("prefix", ["", "module.", "text."])
def test_a_file_alone_loads(nano, prefix, tmp_path):
    tensors = {f"{prefix}{key}": x for key, x in eqx_clip.to_state_dict(nano).items()}
    if prefix == "text.":
        tensors = {
            key.removeprefix(prefix) if "visual" in key or "logit" in key else key: x
            for key, x in tensors.items()
        }
    save_file(tensors, tmp_path / "weights.safetensors")
    assert bitwise_equal(eqx_clip.load(tmp_path / "weights.safetensors"), nano)
    assert bitwise_equal(eqx_clip.load(str(tmp_path / "weights.safetensors")), nano)


def test_a_file_alone_in_transformers_names_loads(nano, tmp_path):
    eqx_clip.save(nano, tmp_path, format="transformers")
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").rename(tmp_path / "away.json")
    assert bitwise_equal(eqx_clip.load(weights), nano)
    assert bitwise_equal(eqx_clip.load(NANO, weights), nano)


def test_transformers_configuration_beside_the_file_is_followed(tmp_path):
    model = tiny(SQUARE)
    eqx_clip.save(model, tmp_path, format="transformers")
    assert bitwise_equal(eqx_clip.load(tmp_path / "model.safetensors"), eqx_clip.load(tmp_path))


def test_an_npz_file_alone_loads(monkeypatch, tmp_path):
    config = config_from_open_clip(TINY_SIGLIP)
    register(monkeypatch, "ViT-tiny-8-SigLIP", config)
    np.savez(tmp_path / "weights.npz", **arrays_of(config))
    loaded = eqx_clip.load(tmp_path / "weights.npz")
    assert loaded.image.config == config.image and loaded.text.config == config.text
    assert bitwise_equal(loaded, eqx_clip.load("ViT-tiny-8-SigLIP", tmp_path / "weights.npz"))


@pytest.mark.parametrize("where", ["beside", "within"])
def test_a_configuration_in_the_file_or_beside_it_comes_first(where, model, folder):
    if where == "within":
        (folder / CONFIG).unlink()
    else:
        save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
    assert bitwise_equal(eqx_clip.load(folder / WEIGHTS), model)


@pytest.mark.parametrize("argument", ["tag", "revision"])
def test_a_tag_has_no_meaning_for_a_file_alone(argument, folder):
    with pytest.raises(ValueError, match=rf"`{argument}='main'` has no meaning for a file"):
        eqx_clip.load(folder / WEIGHTS, **{argument: "main"})


def test_a_moving_average_is_told_once_and_can_be_taken(nano, tmp_path, caplog):
    torch = pytest.importorskip("torch")
    weights = {key: torch.tensor(x) for key, x in eqx_clip.to_state_dict(nano).items()}
    average = {key: x / 2 for key, x in weights.items()}
    torch.save({"state_dict": weights, "ema": {"state_dict": average}}, tmp_path / "x.pt")
    with caplog.at_level(logging.INFO, "eqx_clip"):
        assert bitwise_equal(eqx_clip.load(tmp_path / "x.pt"), nano)
    assert caplog.text.count("its moving average, 'ema'") == 1
    halves = jax.tree.map(lambda leaf: leaf / 2, nano)
    assert bitwise_equal(eqx_clip.load(tmp_path / "x.pt", part="ema"), halves)
    assert bitwise_equal(eqx_clip.load(NANO, tmp_path / "x.pt", part="ema"), halves)
    with pytest.raises(ValueError, match=r"it has no state dict 'ema2'; it has .*'ema'"):
        eqx_clip.load(NANO, tmp_path / "x.pt", part="ema2")


@pytest.mark.parametrize("part, words", [("ema", "names a state dict"), (3, "must be the key of")])
def test_a_part_of_another_file_than_torchs_is_refused(part, words, folder):
    with pytest.raises(ValueError, match=f"`part` {words}"):
        eqx_clip.load(folder, part=part)


def test_openais_archive_loads_whole(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    exact = config_from_open_clip(SQUARE)
    model = random_model(exact.with_quick_gelu())
    register(monkeypatch, "ViT-tiny", exact)
    weights = SimpleNamespace(tag="openai", config=exact.with_quick_gelu())
    monkeypatch.setattr(recognize, "PRETRAINED", (weights,))
    facts = {key: torch.tensor(7) for key in ("input_resolution", "context_length", "vocab_size")}
    weights = {key: torch.tensor(x) for key, x in eqx_clip.to_state_dict(model).items()}
    torch.save({**weights, **facts}, tmp_path / "x.pt")
    assert bitwise_equal(eqx_clip.load(tmp_path / "x.pt"), model)
    assert bitwise_equal(eqx_clip.load("ViT-tiny", tmp_path / "x.pt"), model)
    torch.save(weights, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"image\.activation \(gelu or quick_gelu\)"):
        eqx_clip.load(tmp_path / "x.pt")
