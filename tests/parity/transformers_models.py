"""transformers' models, to compare with."""

import json

import numpy as np
import pytest
from helpers import features, images_for, relative_error
from oracle import torch
from PIL import Image

import eqx_clip
from eqx_clip.checkpoints.transformers_files import CONFIG_FILE, read_config


pytest.importorskip("transformers")


def with_noise(model, dtype, spread):
    """The model with noise on every parameter."""
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model


def oracle_features(model, images, ids):
    """Unit image features, unit text features and logits of two batches."""
    dtype = model.logit_scale.dtype
    with torch.no_grad():
        outputs = model(
            input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(images).to(dtype)
        )
    return (
        outputs.image_embeds.numpy(),
        outputs.text_embeds.numpy(),
        outputs.logits_per_image.numpy(),
    )


def error(ours: eqx_clip.CLIP, oracle, ids):
    """The largest error of the three, over the largest value."""
    images = images_for(ours, 3)
    pairs = zip(features(ours, images, ids), oracle_features(oracle, images, ids), strict=True)
    return max(relative_error(mine, theirs) for mine, theirs in pairs)


def load_strictly(kind, folder, expected):
    """transformers' model of a folder, which has the bits of `expected`, and nothing else."""
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    return model.eval()


def picture(width, height, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def preprocess_of(folder, model_type, image_size):
    """What is made of the image processor in a folder, of which this writes the rest."""
    config = {"model_type": model_type, "vision_config": {"image_size": image_size}}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return read_config(folder, "here").preprocess
