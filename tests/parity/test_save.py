"""What `save` writes, OpenCLIP loads; what OpenCLIP writes, `load` loads."""

import json
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.torch
from helpers import (
    TINY_CLIPA,
    TINY_CONVNEXT,
    TINY_RESNET,
    TINY_SIGLIP,
    TINY_SIGLIP2,
    TINY_VIT,
    TINY_WORLDWIDE,
    bitwise_equal,
    features,
    relative_error,
    tiny,
)
from models import batch_for, oracle_features, oracle_model


from oracle import open_clip, torch  # isort: skip  # first: it makes torchvision importable
from open_clip.push_to_hf_hub import save_config_for_hf  # isort: skip
from PIL import Image

import eqx_clip
from eqx_clip import CLIP, Preprocess


HALF = (0.5, 0.5, 0.5)
VARIANTS = {
    "vit": TINY_VIT,
    "convnext": TINY_CONVNEXT,
    "convnext, linear head": {
        **TINY_CONVNEXT,
        "vision_cfg": {**TINY_CONVNEXT["vision_cfg"], "timm_proj": "linear"},
    },
    "resnet": TINY_RESNET,
    "clipa": TINY_CLIPA,
    "siglip": TINY_SIGLIP,
    "siglip 2": TINY_SIGLIP2,
    "siglip without projection": {
        **TINY_SIGLIP,
        "text_cfg": {**TINY_SIGLIP["text_cfg"], "width": 40, "heads": 4, "proj_type": "none"},
    },
    "metaclip 2": TINY_WORLDWIDE,
    "quick gelu": {**TINY_VIT, "quick_gelu": True},
    "logit bias": {**TINY_VIT, "init_logit_bias": -7.5},
}


def from_openclip(folder, **options):
    """OpenCLIP's own factory; it warns of what it does not find, and loads strictly."""
    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, **options)
    return model.eval()


def check_equal(ours: CLIP, theirs):
    images, tokens = batch_for(ours)
    mine = features(ours, images, tokens)
    errors = [
        relative_error(a, b)
        for a, b in zip(mine, oracle_features(theirs, images, tokens), strict=True)
    ]
    assert max(errors) < 2e-5, errors


def check_same_tensors(ours: CLIP, theirs):
    tensors, state = eqx_clip.to_state_dict(ours), theirs.state_dict()
    assert set(tensors) == set(state)
    for name, tensor in tensors.items():
        assert tensor.shape == tuple(state[name].shape), name
        assert np.array_equal(tensor, state[name].numpy()), name


@pytest.mark.parametrize("name", VARIANTS)
def test_openclip_loads_what_save_writes(name, tmp_path):
    ours = tiny(VARIANTS[name])
    eqx_clip.save(ours, tmp_path)
    theirs = from_openclip(tmp_path)
    check_same_tensors(ours, theirs)
    check_equal(ours, theirs)


@pytest.mark.parametrize("name", VARIANTS)
def test_load_reads_what_openclip_writes(name, tmp_path):
    theirs = oracle_model(VARIANTS[name])
    open_clip.model.set_model_preprocess_cfg(theirs, {"mean": (0.5,) * 3, "std": (0.25,) * 3})
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    # OpenCLIP's own writer of the configuration, which `push_to_hf_hub` calls.
    save_config_for_hf(theirs, tmp_path / "open_clip_config.json", model_config=VARIANTS[name])
    ours = eqx_clip.load(tmp_path)
    assert ours.preprocess.mean == (0.5,) * 3 and ours.preprocess.std == (0.25,) * 3
    check_same_tensors(ours, theirs)
    if "convnext" not in name:  # seconds to compile, and compared above
        check_equal(ours, theirs)
    eqx_clip.save(ours, tmp_path / "again")
    check_same_tensors(ours, from_openclip(tmp_path / "again"))


def test_what_openclip_leaves_aside_in_a_configuration_is_left_aside(tmp_path):
    ours = tiny()
    eqx_clip.save(ours, tmp_path)
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"] |= {"crop_pct": 0.875, "num_classes": 0, "size": 7}
    config["model_cfg"]["text_cfg"] |= {"pad_id": 49407, "eos_id": 3, "tokenizer_mode": "clips"}
    config["model_cfg"]["vision_cfg"]["timm_drop"] = 0.5
    config["timm_version"] = "1.0"
    path.write_text(json.dumps(config))
    assert bitwise_equal(eqx_clip.load(tmp_path), ours)
    created: Any = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    check_equal(ours, created[0].eval())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8))
    assert np.array_equal(created[2](image).numpy(), ours.preprocess(image))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert np.array_equal(tokenizer(["A cat"]).numpy(), ours.tokenize(["A cat"]))


def test_clips_own_tokenizer_of_transformers_gives_the_same_features():
    # It pads with the end of text, OpenCLIP's own with zeros.
    theirs = oracle_model(TINY_VIT)
    ours = tiny().tokenize(["a photo of a cat", "", "two dogs, " * 60])
    padded = np.where(np.arange(13) > ours.argmax(1)[:, None], 49407, ours)
    assert (padded != ours).any()
    with torch.no_grad():
        features = [theirs.encode_text(torch.tensor(x).long()).numpy() for x in (ours, padded)]
    assert np.array_equal(*features)


def test_models_with_a_separate_text_tower_load_and_are_saved_without_it(tmp_path):
    theirs = oracle_model({**TINY_VIT, "custom_text": True})
    assert "text.token_embedding.weight" in theirs.state_dict()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": {**TINY_VIT, "custom_text": True}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    ours = eqx_clip.load(tmp_path)
    check_equal(ours, theirs)
    eqx_clip.save(ours, tmp_path / "plain")
    check_same_tensors(ours, from_openclip(tmp_path / "plain"))


def test_bfloat16_weights_survive_openclip(tmp_path):
    ours = tiny()
    eqx_clip.save(ours, tmp_path / "float32")
    half = eqx_clip.load(tmp_path / "float32", dtype="bfloat16")
    eqx_clip.save(half, tmp_path / "half")
    stored = safetensors.torch.load_file(tmp_path / "half/open_clip_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    theirs = from_openclip(tmp_path / "half")  # in float32, as it is told
    check_same_tensors(eqx_clip.load(tmp_path / "half"), theirs)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((48, 32)),
        Preprocess((48, 32), mean=HALF, std=HALF, interpolation="bilinear", resize_mode="squash"),
        Preprocess((48, 32), mean=(0.1, 0.2, 0.3), resize_mode="longest", fill_color=77),
    ],
)
def test_openclip_preprocesses_as_the_saved_model(preprocess, tmp_path):
    model = tiny()
    model = CLIP(
        image=model.image,
        text=model.text,
        logit_scale=model.logit_scale,
        preprocess=preprocess,
        tokenizer=model.tokenizer,
    )
    eqx_clip.save(model, tmp_path)
    created: Any = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    transform = created[2]
    noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    image = Image.fromarray(noise)
    assert np.array_equal(transform(image).numpy(), model.preprocess(image))
    assert bitwise_equal(eqx_clip.load(tmp_path), model)
    assert jax.tree.structure(eqx_clip.load(tmp_path)) == jax.tree.structure(model)


def test_openclips_preprocessing_comes_with_the_model(tmp_path):
    pp = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear"}
    eqx_clip.save(tiny(), tmp_path / "ours")
    created: Any = open_clip.create_model_and_transforms(
        f"local-dir:{tmp_path / 'ours'}",
        image_mean=pp["mean"],
        image_std=pp["std"],
        image_interpolation="bilinear",
        image_resize_mode="squash",
    )
    theirs, _, transform = created
    folder = tmp_path / "theirs"
    folder.mkdir()
    safetensors.torch.save_file(theirs.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(theirs, folder / "open_clip_config.json", model_config=TINY_VIT)
    model = eqx_clip.load(folder)
    assert model.preprocess == Preprocess((48, 32), **pp, resize_mode="squash")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8))
    assert np.array_equal(transform(image).numpy(), model.preprocess(image))
