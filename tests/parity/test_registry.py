"""The registry against OpenCLIP's own."""

from typing import Any

import pytest
from models import OPEN_CLIP_NAMES
from oracle import open_clip

from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.zoo.architectures import ALIASES, MODELS, is_model, model_config
from eqx_clip.zoo.pairs import open_clip_pairs
from eqx_clip.zoo.pretrained import PRETRAINED


def openclip_config(name) -> dict[str, Any]:
    config = open_clip.get_model_config(name)
    assert config is not None
    return config


def test_openclip_has_no_other_weights_under_a_quickgelu_name():
    for alias, (model, quick_gelu, _) in ALIASES.items():
        if quick_gelu:
            tags = {row.open_clip[1] for row in PRETRAINED if row.model == model and row.quick_gelu}
            assert tags <= set(open_clip.list_pretrained_tags_by_model(alias))


def test_the_table_of_pairs_is_openclips():
    ours = [(pair.model, pair.tag) for pair in open_clip_pairs()]
    assert len(set(ours)) == len(ours) and set(ours) == set(open_clip.list_pretrained())
    for pair in open_clip_pairs():
        hub = open_clip.get_pretrained_cfg(pair.model, pair.tag)["hf_hub"]
        assert pair.repo == "/".join(hub.split("/")[:2])


def test_configurations_of_families_that_are_not_built_are_refused():
    for pair in open_clip_pairs():
        if not is_model(pair.model):
            with pytest.raises(ValueError, match=r"supported|not known"):
                config_from_open_clip(openclip_config(pair.model))


@pytest.mark.parametrize("name", OPEN_CLIP_NAMES)
def test_every_architecture_is_openclips(name):
    theirs = config_from_open_clip(openclip_config(OPEN_CLIP_NAMES[name]))
    assert MODELS[name] == theirs


@pytest.mark.parametrize("alias", [alias for alias in ALIASES if "eps" not in alias])
def test_every_alias_is_openclips(alias):
    assert model_config(alias) == config_from_open_clip(openclip_config(alias))
