"""The registry against OpenCLIP's own."""

from typing import Any

import pytest
from models import OPEN_CLIP_NAMES
from oracle import open_clip

from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.zoo.architectures import ALIASES, MODELS, model_config
from eqx_clip.zoo.pairs import BUILT_FAMILIES, open_clip_pairs
from eqx_clip.zoo.pretrained import PRETRAINED


def openclip_config(name) -> dict[str, Any]:
    config = open_clip.get_model_config(name)
    assert config is not None
    return config


@pytest.mark.parametrize("row", PRETRAINED, ids=lambda row: f"{row.model}:{row.tag}")
def test_every_row_is_openclips(row):
    theirs = open_clip.get_pretrained_cfg(*row.open_clip)
    assert row.repos == (theirs["hf_hub"].rstrip("/"),)
    assert theirs["hf_hub"].endswith("/")  # the file is of OpenCLIP's usual name
    config = row.config
    assert config.preprocess.mean == tuple(theirs["mean"])
    assert config.preprocess.std == tuple(theirs["std"])
    assert config.preprocess.interpolation == theirs["interpolation"]
    assert config.preprocess.resize_mode == theirs["resize_mode"]
    assert row.quick_gelu == theirs.get("quick_gelu", False)
    size = openclip_config(row.open_clip[0])["vision_cfg"]["image_size"]
    assert config.image.image_size == config.preprocess.image_size == size


def test_openclip_has_no_other_weights_under_a_quickgelu_name():
    for alias, (model, quick_gelu, _) in ALIASES.items():
        if quick_gelu:
            tags = {row.open_clip[1] for row in PRETRAINED if row.model == model and row.quick_gelu}
            assert tags <= set(open_clip.list_pretrained_tags_by_model(alias))


def test_the_table_of_pairs_is_openclips():
    assert [(pair.model, pair.tag) for pair in open_clip_pairs()] == open_clip.list_pretrained()
    for model, tag, _, repo in open_clip_pairs():
        hub = open_clip.get_pretrained_cfg(model, tag)["hf_hub"]
        assert repo == "/".join(hub.split("/")[:2])


def test_the_families_that_are_built_are_those_whose_configurations_are_read():
    for model, _, family, _ in open_clip_pairs():
        if family in BUILT_FAMILIES:
            config_from_open_clip(openclip_config(model))
        else:
            with pytest.raises(ValueError, match=r"supported|not known"):
                config_from_open_clip(openclip_config(model))


@pytest.mark.parametrize("name", OPEN_CLIP_NAMES)
def test_every_architecture_is_openclips(name):
    theirs = config_from_open_clip(openclip_config(OPEN_CLIP_NAMES[name]))
    assert MODELS[name] == theirs


@pytest.mark.parametrize("alias", [alias for alias in ALIASES if "eps" not in alias])
def test_every_alias_is_openclips(alias):
    assert model_config(alias) == config_from_open_clip(openclip_config(alias))
