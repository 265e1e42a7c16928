"""The format of transformers, compared with transformers itself."""

import jax
import numpy as np
import pytest
from helpers import bitwise_equal, features, images_for, relative_error
from oracle import torch
from safetensors.numpy import load_file
from transformers_models import (
    error,
    load_strictly,
    oracle_features,
    picture,
    preprocess_of,
    with_noise,
)

import eqx_clip
from eqx_clip import Preprocess, TextConfig, ViTConfig


transformers = pytest.importorskip("transformers")

SIZES = [
    dict(width=24, depth=2, heads=2, hidden=64, patch=8, image=32, context=9, act="quick_gelu"),
    dict(width=40, depth=3, heads=5, hidden=135, patch=6, image=50, context=13, act="gelu"),
    dict(width=64, depth=1, heads=1, hidden=97, patch=16, image=16, context=77, act="quick_gelu"),
]
VOCABULARY = 49408


def oracle_config(width, depth, heads, hidden, patch, image, context, act, **text):
    shared = {
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_act": act,
        "hidden_size": width,
        "intermediate_size": hidden,
    }
    return transformers.CLIPConfig(
        text_config={
            **shared,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": context,
            **text,
        },
        vision_config={**shared, "image_size": image, "patch_size": patch},
        projection_dim=20,
    )


def oracle_model(config, dtype=torch.float32):
    torch.manual_seed(0)
    return with_noise(transformers.CLIPModel(config), dtype, 0.1)


def save_oracle(model, folder, **options):
    model.save_pretrained(folder, **options)
    size = model.config.vision_config.image_size
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
    processor.save_pretrained(folder)
    return folder


def rows(context, seed=0):
    """Rows of ids with an end of text, followed by zeros as OpenCLIP pads, or by ends of text."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY - 2, (4, context)).astype(np.int32)
    for row, end in zip(ids, (3, context // 2, context - 1, 2), strict=True):
        row[0], row[end] = VOCABULARY - 2, VOCABULARY - 1
        row[end + 1 :] = 0
    ids[3, 3:] = VOCABULARY - 1
    return ids


def error_of(ours, oracle):
    return error(ours, oracle, rows(ours.tokenizer.context_length))


@pytest.mark.parametrize("sizes", SIZES, ids=["small", "odd", "one"])
def test_features_are_those_of_transformers_in_float64(sizes, tmp_path, x64):
    oracle = oracle_model(oracle_config(**sizes), torch.float64)
    ours = eqx_clip.load(save_oracle(oracle, tmp_path), dtype="float64")
    assert error_of(ours, oracle) < 1e-10


@pytest.mark.parametrize("sizes", SIZES, ids=["small", "odd", "one"])
def test_features_are_those_of_transformers_in_float32(sizes, tmp_path):
    oracle = oracle_model(oracle_config(**sizes))
    assert error_of(eqx_clip.load(save_oracle(oracle, tmp_path)), oracle) < 2e-5


def test_files_from_before_the_end_of_text_was_read_take_the_highest_id(tmp_path):
    """OpenAI's own say 2, which is no end of text of this vocabulary."""
    oracle = oracle_model(oracle_config(**SIZES[0], eos_token_id=2))
    assert error_of(eqx_clip.load(save_oracle(oracle, tmp_path)), oracle) < 2e-5


def test_the_end_of_text_may_be_any_id(tmp_path):
    """Of a row without it transformers reads the first token."""
    oracle = oracle_model(oracle_config(**SIZES[0], eos_token_id=77))
    ours = eqx_clip.load(save_oracle(oracle, tmp_path / "theirs"))
    assert error_of(ours, oracle) < 2e-5
    ids = rows(9)
    ids[:3, 4] = 77
    images = images_for(ours, 4)
    for mine, theirs in zip(
        features(ours, images, ids), oracle_features(oracle, images, ids), strict=True
    ):
        assert relative_error(mine, theirs) < 2e-5
    eqx_clip.save(ours, tmp_path / "ours", format="transformers")
    assert bitwise_equal(eqx_clip.load(tmp_path / "ours"), ours)


def test_shards_are_read_by_their_index(tmp_path):
    oracle = oracle_model(oracle_config(**SIZES[0]))
    whole = eqx_clip.load(save_oracle(oracle, tmp_path / "whole"))
    folder = save_oracle(oracle, tmp_path / "shards", max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert bitwise_equal(eqx_clip.load(folder), whole)
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"1 are missing, e\.g\. '{shards[1].name}'"):
        eqx_clip.load(folder)


def test_what_is_saved_transformers_loads_to_the_same_bits(tmp_path):
    oracle = oracle_model(oracle_config(**SIZES[1]))
    ours = eqx_clip.load(save_oracle(oracle, tmp_path / "theirs"))
    eqx_clip.save(ours, tmp_path / "ours", format="transformers")
    assert bitwise_equal(eqx_clip.load(tmp_path / "ours"), ours)
    again = load_strictly(transformers.CLIPModel, tmp_path / "ours", oracle.state_dict())
    assert error_of(ours, again) < 2e-5
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "ours")
    assert processor.crop_size["height"] == SIZES[1]["image"]


def test_a_model_of_openclip_is_the_same_in_both_formats(tmp_path):
    text = TextConfig(width=16, depth=1, num_heads=2, embed_dim=8, context_length=7)
    image = ViTConfig(image_size=16, patch_size=8, width=16, depth=2, num_heads=2, embed_dim=8)
    config = eqx_clip.CLIPConfig(image=image, text=text, preprocess=Preprocess(16))
    model = eqx_clip.create(config, key=jax.random.key(0))
    eqx_clip.save(model, tmp_path / "one")
    eqx_clip.save(model, tmp_path / "other", format="transformers")
    one, other = (eqx_clip.load(tmp_path / name) for name in ("one", "other"))
    assert bitwise_equal(one, other) and bitwise_equal(one, model)
    resized = [
        eqx_clip.load(tmp_path / name, image_size=24, context_length=5) for name in ("one", "other")
    ]
    assert bitwise_equal(*resized)
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in tensors


WIDE = [(64, 48), (33, 32), (100, 37), (32, 32), (35, 32)]


# Where an odd number of pixels is cropped, transformers rounds down and OpenCLIP to the even half:
# one pixel apart if the number is 3, 7, 11, ...
@pytest.mark.parametrize("size", [*WIDE, (48, 64), (20, 25), (32, 39)])
def test_pixels_are_those_of_transformers_processors(size, tmp_path):
    name = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    slow = transformers.models.clip.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=32, **name
    )
    slow.save_pretrained(tmp_path)
    ours = preprocess_of(tmp_path, "clip", 32)
    image = picture(*size)
    theirs = slow(image, return_tensors="np")["pixel_values"][0]
    resized_width = 32 * size[0] // min(size)
    resized_height = 32 * size[1] // min(size)
    odd = any((side - 32) % 4 == 3 for side in (resized_width, resized_height))
    assert (np.abs(ours(image) - theirs).max() < 1e-6) == (not odd)
