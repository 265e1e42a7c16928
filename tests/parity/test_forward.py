"""Image features, text features and logits against OpenCLIP with the same weights."""

import numpy as np
import pytest
from helpers import (
    TINY_CLIPA,
    TINY_CONVNEXT,
    TINY_RESNET,
    TINY_VIT,
    features,
    relative_error,
)
from models import (
    batch_for,
    oracle_config,
    oracle_features,
    oracle_model,
    save_oracle,
    state_dict,
)
from oracle import open_clip, torch
from PIL import Image

import eqx_clip
from eqx_clip.checkpoints.hub import REGISTERED_FILES
from eqx_clip.zoo.pretrained import find_pretrained


# The sizes of the others are compared in `test_pairs`, their features in
# benchmarks/parity_at_full_size.py.
WHOLE = ("vit-nano-patch32", "vit-base-patch32", "convnext_tiny")
TWO_LAYERS = ("vit-base-patch16", "convnext-base-w", "convnext-large-d", "RN50", "ViT-L-14-CLIPA")


def errors(ours, oracle, images=2):
    images, tokens = batch_for(ours, images)
    return [
        relative_error(mine, theirs)
        for mine, theirs in zip(
            features(ours, images, tokens), oracle_features(oracle, images, tokens), strict=True
        )
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_equal_openclip_in_float32(name, tmp_path):
    oracle = oracle_model(oracle_config(name))
    ours = eqx_clip.load(name, save_oracle(oracle, tmp_path / "weights.safetensors"))
    assert max(errors(ours, oracle)) < 2e-5


@pytest.mark.parametrize("name", TWO_LAYERS)
def test_models_of_full_width_equal_openclip_in_float64(name, x64):
    config = oracle_config(name, layers=2)
    oracle = oracle_model(config, dtype=torch.float64)
    ours = eqx_clip.from_state_dict(config, state_dict(oracle))
    assert max(errors(ours, oracle, images=1)) < 1e-10


@pytest.mark.parametrize(
    "config",
    [TINY_VIT, TINY_CONVNEXT, TINY_RESNET, TINY_CLIPA],
    ids=["vit", "convnext", "resnet", "clipa"],
)
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("custom_text", [False, True], ids=["clip", "custom_text"])
def test_small_models_of_unequal_sizes_equal_openclip(config, quick_gelu, custom_text, x64):
    config = {**config, "quick_gelu": quick_gelu, "custom_text": custom_text}
    oracle = oracle_model(config, dtype=torch.float64)
    ours = eqx_clip.from_state_dict(config, state_dict(oracle))
    assert max(errors(ours, oracle)) < 1e-10


def test_logit_bias_is_added_as_openclip_adds_it(x64):
    config = {**TINY_VIT, "init_logit_bias": -3.0}
    oracle = oracle_model(config, dtype=torch.float64)
    ours = eqx_clip.from_state_dict(config, state_dict(oracle))
    assert max(errors(ours, oracle)) < 1e-10


def cached(row, oracle, folder):
    """The weights of a registry row in a cache laid out as the hub's."""
    repo = folder / f"models--{row.repos[0].replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    save_oracle(oracle, snapshot / REGISTERED_FILES[0])


@pytest.mark.parametrize(
    ("name", "tag", "openclip_name"),
    [
        ("ViT-B-32", "laion400m_e32", "ViT-B-32-quickgelu"),
        ("convnext-base-w", "laion-aesthetic-s13b-b82k-320", "convnext_base_w_320"),
    ],
)
def test_tags_with_traps_load_as_openclip_means_them(
    name, tag, openclip_name, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    oracle = oracle_model(open_clip.get_model_config(openclip_name))
    cached(find_pretrained(name, tag), oracle, tmp_path)
    ours = eqx_clip.load(name, tag, cache_dir=tmp_path)
    assert max(errors(ours, oracle, images=1)) < 2e-5


@pytest.mark.parametrize(("name", "tag"), eqx_clip.list_pretrained())
def test_every_tag_is_preprocessed_as_openclip_does(name, tag):
    row = find_pretrained(name, tag)
    cfg = open_clip.get_pretrained_cfg(*row.open_clip)
    size = open_clip.get_model_config(row.open_clip[0])["vision_cfg"]["image_size"]
    transform = open_clip.image_transform(
        size, False, cfg["mean"], cfg["std"], cfg["resize_mode"], cfg["interpolation"]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (211, 347, 3), np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(row.config.preprocess(image), transform(image).numpy())
