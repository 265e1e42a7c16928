"""big_vision's npz files, as OpenCLIP converts them."""

import copy

import numpy as np
import pytest
from big_vision_files import arrays_of, register, rooted, stacked
from helpers import TINY_SIGLIP, TINY_SIGLIP2, bitwise_equal
from models import oracle_model, save_oracle
from open_clip.convert import load_big_vision_weights

import eqx_clip
from eqx_clip.checkpoints.config import config_from_open_clip


NAME = "ViT-tiny-8-SigLIP"
TANH_WITHOUT_PROJECTION = {
    **TINY_SIGLIP2,
    "text_cfg": {
        **TINY_SIGLIP2["text_cfg"],
        "width": 40,
        "heads": 2,
        "proj_type": "none",
        "proj_bias": False,
    },
}
CONFIGS = {
    "siglip": TINY_SIGLIP,
    "siglip2": TINY_SIGLIP2,
    "without a projection": TANH_WITHOUT_PROJECTION,
}
LAYOUTS = {
    "layer by layer": lambda arrays: arrays,
    "stacked": stacked,
    "in a root": rooted,
    "stacked in a root": lambda arrays: rooted(stacked(arrays)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_is_openclips_to_the_bit(kind, layout, save, tmp_path, monkeypatch):
    config = CONFIGS[kind]
    ours = config_from_open_clip(config)
    register(monkeypatch, NAME, ours)
    path = tmp_path / "weights.npz"
    save(path, **LAYOUTS[layout](arrays_of(ours)))
    theirs = oracle_model({**copy.deepcopy(config), "custom_text": True})
    load_big_vision_weights(theirs, str(path))
    save_oracle(theirs, tmp_path / "weights.safetensors")
    loaded = eqx_clip.load(NAME, path)
    assert bitwise_equal(loaded, eqx_clip.load(NAME, tmp_path / "weights.safetensors"))
