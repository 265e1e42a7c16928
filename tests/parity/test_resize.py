"""`image_size=` and `context_length=` against OpenCLIP's own resizing."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from helpers import TINY_VIT, features, relative_error, tiny
from models import (
    batch_for,
    nano_config,
    oracle_features,
    oracle_model,
    save_oracle,
    state_dict,
)
from oracle import open_clip, torch
from PIL import Image

import eqx_clip
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.convert import filled
from eqx_clip.checkpoints.format import OPEN_CLIP


# OpenCLIP takes the checkpoint's grid for square.
SQUARE = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": 48}}
SAME_GRID = 51  # three pixels more, which no patch sees
IMAGE_SIZES = [96, 24, (64, 40), (24, 56), SAME_GRID]
CONTEXT_LENGTHS = [31, 14, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("square")
    eqx_clip.save(tiny(SQUARE), folder)
    return folder


def check_equal(ours, theirs):
    images, tokens = batch_for(ours)
    mine = features(ours, images, tokens)
    errors = [
        relative_error(a, b)
        for a, b in zip(mine, oracle_features(theirs, images, tokens), strict=True)
    ]
    assert max(errors) < 2e-5, errors


@pytest.mark.parametrize("image_size", [96, (24, 56)])
def test_features_of_resized_images(image_size, folder):
    ours = eqx_clip.load(folder, image_size=image_size)
    created: Any = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", force_image_size=image_size
    )
    theirs, _, transform = created
    check_equal(ours, theirs.eval())
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(transform(image).numpy(), ours.preprocess(image))


@pytest.mark.parametrize("context_length", [31, 7])
def test_features_of_resized_texts(context_length, folder):
    ours: Any = eqx_clip.load(folder, context_length=context_length)
    theirs = open_clip.create_model(f"local-dir:{folder}", force_context_length=context_length)
    assert ours.text.positional_embedding.shape == (context_length, 36)
    check_equal(ours, theirs.eval())


@pytest.mark.parametrize(
    "options",
    [
        *({"image_size": size} for size in IMAGE_SIZES),
        *({"context_length": length} for length in CONTEXT_LENGTHS),
        {"image_size": (64, 40), "context_length": 31},
    ],
    ids=str,
)
def test_positions_in_float64(options, x64):
    config = config_from_open_clip(SQUARE)
    resized = config.resize(**options)
    state = oracle_model(SQUARE, dtype=torch.float64).state_dict()
    tensors = {name: tensor.numpy().copy() for name, tensor in state.items()}
    ours = eqx_clip.to_state_dict(
        filled(resized, tensors, None, OPEN_CLIP.positions(config, resized))
    )
    target = copy.deepcopy(SQUARE)
    target["vision_cfg"]["image_size"] = resized.image.image_size
    target["text_cfg"]["context_length"] = resized.text.context_length
    model = open_clip.CLIP(**target)
    open_clip.model.resize_pos_embed(state, model)
    open_clip.model.resize_text_pos_embed(state, model)
    changed = set()
    for name, tensor in state.items():
        theirs = tensor.numpy()
        assert ours[name].dtype == np.float64 and ours[name].shape == theirs.shape
        if "positional" in name:
            assert np.abs(ours[name] - theirs).max() < 1e-10 * np.abs(theirs).max()
            if theirs.shape != tensors[name].shape:
                changed.add(name)
        else:
            assert np.array_equal(ours[name], theirs)
    names = {"image_size": "visual.positional_embedding", "context_length": "positional_embedding"}
    assert changed == {names[key] for key, value in options.items() if value != SAME_GRID}


# Weights of another size than their configuration says


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Weights of 64 pixels and 21 tokens beside a configuration of 48 and 13."""
    folder = tmp_path_factory.mktemp("tuned")
    vision, text = SQUARE["vision_cfg"], SQUARE["text_cfg"]
    config = {
        **SQUARE,
        "vision_cfg": {**vision, "image_size": 64},
        "text_cfg": {**text, "context_length": 21},
    }
    eqx_clip.save(tiny(config), folder)
    path = folder / "open_clip_config.json"
    contents = json.loads(path.read_text())
    contents["model_cfg"]["vision_cfg"]["image_size"] = 48
    contents["model_cfg"]["text_cfg"]["context_length"] = 13
    path.write_text(json.dumps(contents))
    return folder


def forced(options):
    """The same options under OpenCLIP's names."""
    return {f"force_{name}": value for name, value in options.items()}


OPTIONS = [
    {},
    {"image_size": 64},
    {"image_size": 96},
    {"image_size": (40, 24)},
    {"context_length": 21},
    {"context_length": 31},
    {"image_size": 32, "context_length": 7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_of_another_size_than_configured_by_folder(options, tuned):
    created: Any = open_clip.create_model_and_transforms(f"local-dir:{tuned}", **forced(options))
    theirs, _, transform = created
    ours: Any = eqx_clip.load(tuned, **options)
    check_equal(ours, theirs.eval())
    size, length = options.get("image_size", 48), options.get("context_length", 13)
    assert ours.preprocess.image_size == size
    assert ours.tokenizer.context_length == length == theirs.context_length
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    assert np.array_equal(
        transform(Image.fromarray(pixels)).numpy(), ours.preprocess(Image.fromarray(pixels))
    )


@pytest.mark.parametrize("options", [{}, {"image_size": 96}, {"context_length": 31}], ids=str)
def test_weights_of_another_size_than_configured_by_name_and_file(options, tmp_path):
    path = tmp_path / "vit-nano-patch32.json"
    path.write_text(json.dumps(nano_config()))
    open_clip.add_model_config(path)
    config = nano_config()
    config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"] = 160, 20
    weights = save_oracle(oracle_model(config), tmp_path / "weights.safetensors")
    theirs = open_clip.create_model("vit-nano-patch32", pretrained=str(weights), **forced(options))
    check_equal(eqx_clip.load("vit-nano-patch32", weights, **options), theirs.eval())


def test_from_state_dict_resizes_nothing():
    with pytest.raises(ValueError, match="must have shape"):
        eqx_clip.from_state_dict(TINY_VIT, state_dict(oracle_model(SQUARE)))
