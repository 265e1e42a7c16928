"""Every pair of OpenCLIP's whose family is built: the model's shapes, and the registry's facts."""

import copy
import dataclasses

import pytest
from oracle import open_clip, torch

from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.convert import skeleton
from eqx_clip.checkpoints.format import OPEN_CLIP
from eqx_clip.checkpoints.rows.state_dict import entries
from eqx_clip.zoo.architectures import ALIASES, MODELS, is_model, model_config
from eqx_clip.zoo.pairs import open_clip_pairs
from eqx_clip.zoo.pretrained import find_pretrained


PAIRS = [pair for pair in open_clip_pairs() if is_model(pair.model)]
# What OpenCLIP lists under a name of ours, with weights or without.
NAMES = [name for name in open_clip.list_models() if is_model(name)]


def open_clip_shapes(name):
    config = copy.deepcopy(open_clip.get_model_config(name))
    assert config is not None
    model_class = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        model = model_class(**config)
    return {
        key.removeprefix("text."): tuple(tensor.shape) for key, tensor in model.state_dict().items()
    }


def test_the_families_are_there():
    families = [pair.family for pair in PAIRS]
    counts = {family: families.count(family) for family in set(families)}
    assert counts == {
        **{"ViT": 80, "RN": 16, "ConvNeXt": 12, "CLIPA": 7},
        **{"SigLIP": 11, "SigLIP2": 15, "MetaCLIP2": 5},
    }
    assert {pair.model for pair in PAIRS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_openclips_tensors(name):
    config = config_from_open_clip(open_clip.get_model_config(name))
    # OpenCLIP's configurations say nothing of pixels: their weights do.
    assert dataclasses.replace(model_config(name), preprocess=config.preprocess) == config
    model = skeleton(config)
    ours = {
        key: shape
        for row in entries(model, OPEN_CLIP.table(model))
        for key, shape in row.shapes.items()
    }
    assert ours == open_clip_shapes(name)


def test_every_model_of_ours_is_one_of_openclips():
    # The predecessor's smallest is its own.
    ours = {name for name in (*MODELS, *ALIASES) if "nano" not in name and "eps" not in name}
    configs = [model_config(name) for name in NAMES]
    assert all(model_config(name) in configs for name in ours)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.model}:{pair.tag}")
def test_the_registry_has_openclips_facts(pair):
    row = find_pretrained(pair.model, pair.tag)
    theirs = open_clip.get_pretrained_cfg(pair.model, pair.tag)
    assert row.repos == (theirs["hf_hub"].rstrip("/"),)
    assert theirs["hf_hub"].endswith("/")  # the file is of OpenCLIP's usual name
    model_cfg = open_clip.get_model_config(pair.model)
    preprocess = row.config.preprocess
    assert preprocess.mean == tuple(theirs["mean"])
    assert preprocess.std == tuple(theirs["std"])
    assert preprocess.interpolation == theirs["interpolation"]
    assert preprocess.resize_mode == theirs["resize_mode"]
    size = model_cfg["vision_cfg"]["image_size"]
    assert preprocess.image_size == row.config.image.image_size == size
    # The tag is the truth, whatever the model is called.
    quick_gelu = theirs.get("quick_gelu", False) or model_cfg.get("quick_gelu", False)
    config = config_from_open_clip({**model_cfg, "quick_gelu": quick_gelu})
    assert (row.config.image, row.config.text) == (config.image, config.text)
    assert row.config.tokenizer == config.tokenizer


def test_a_name_without_quick_gelu_gets_it_where_the_weights_have_it():
    for name in ("ViT-L-14", "vit-large-patch14", "ViT-L-14-quickgelu", "vit_l_14"):
        config = find_pretrained(name, "openai").config
        assert config.image.activation == config.text.activation == "quick_gelu"
    assert find_pretrained("RN50", "openai").config.text.activation == "quick_gelu"
