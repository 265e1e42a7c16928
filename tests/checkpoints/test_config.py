"""OpenCLIP's configurations: what is read, and what is refused."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from folders import (
    CONFIG,
    CONVNEXT,
    HUGE,
    VIT,
    WEIGHTS,
    edit_config,
)
from helpers import TINY_CONVNEXT, TINY_VIT, bitwise_equal
from safetensors.numpy import load_file, save_file

import eqx_clip
from eqx_clip import (
    Preprocess,
    ViTConfig,
    WeightsNotFoundError,
)
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.rows import state_dict


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is not JSON"),
        ('{"model_cfg": ', "is not JSON"),
        ("\xff", "is not JSON"),
        ("[1, 2]", "must hold an object"),
        ("{}", "has no 'vision_cfg'.*It has: nothing"),
        ('{"vision_cfg": {}, "text_cfg": {}}', "no 'embed_dim'"),
        ('{"embed_dim": 24, "vision_cfg": {}}', "no 'text_cfg'"),
    ],
)
def test_a_broken_configuration_is_refused(folder, text, words):
    (folder / CONFIG).write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.load(folder)
    assert str(folder / CONFIG) in str(info.value)


def test_a_folder_without_configuration_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors, folder / WEIGHTS)  # and none within the file, either
    (folder / CONFIG).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"no '{CONFIG}'"):
        eqx_clip.load(folder)


def test_options_without_effect_and_defaults_are_accepted(model, folder):
    for path, value in [
        ("model_cfg.vision_cfg.patch_dropout", 0.5),
        ("model_cfg.vision_cfg.ls_init_value", None),
        ("model_cfg.vision_cfg.act_kwargs", {}),
        ("model_cfg.vision_cfg.output_tokens", True),
        ("model_cfg.text_cfg.pad_id", 0),
        ("model_cfg.text_cfg.no_causal_mask", False),
        ("model_cfg.quick_gelu", None),
        ("model_cfg.custom_text", True),
        ("model_cfg.text_cfg.pad_id", 1),
        ("model_cfg.text_cfg.hf_tokenizer_name", "openai/clip-vit-base-patch32"),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "lower"}),
        ("preprocess_cfg.mode", "RGB"),
        ("preprocess_cfg.crop_pct", 0.9),
        ("preprocess_cfg.num_classes", 0),
        ("_commit", "0123"),
    ]:
        edit_config(folder, path, value)
    assert bitwise_equal(eqx_clip.load(folder), model)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "openai/clip-vit-large-patch14-336",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "laion/CLIP-convnext_base_w-laion2B-s13B-b82K",
    ],
)
def test_a_tokenizer_that_is_clips_own_may_be_named(name):
    text = {**TINY_VIT["text_cfg"], "hf_tokenizer_name": name}
    assert config_from_open_clip({**TINY_VIT, "text_cfg": text}) == config_from_open_clip(TINY_VIT)
    # Its mode counts beside a name alone.
    text["tokenizer_mode"] = "clips"
    if name:
        with pytest.raises(ValueError, match="`tokenizer_mode='clips'`"):
            config_from_open_clip({**TINY_VIT, "text_cfg": text})
    else:
        config_from_open_clip({**TINY_VIT, "text_cfg": text})


def test_options_of_the_other_kind_of_tower_do_not_count(tmp_path):
    spelled_out = {
        **{"timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": False, "timm_drop": 0.0},
        **{"timm_model_name": None, "timm_model_pretrained": False, "timm_drop_path": None},
    }
    vit = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], **spelled_out}}
    assert config_from_open_clip(vit) == config_from_open_clip(TINY_VIT)
    vision = {**TINY_CONVNEXT["vision_cfg"], "ls_init_value": None, "pool_type": "tok"}
    vision["timm_model_name"] += ".fb_in22k"
    convnext = {**TINY_CONVNEXT, "vision_cfg": vision}
    assert config_from_open_clip(convnext) == config_from_open_clip(TINY_CONVNEXT)


def test_a_square_is_one_size_however_it_is_written():
    square = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": 48}}
    pair = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": [48, 48]}}
    assert config_from_open_clip(square) == config_from_open_clip(pair)


@pytest.mark.parametrize(
    "name", ["bert-base-uncased", "laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k"]
)
def test_a_model_of_another_tokenizer_loads_and_tokenizes_nothing(folder, model, name):
    edit_config(folder, "model_cfg.text_cfg.hf_tokenizer_name", name)
    edit_config(folder, "model_cfg.text_cfg.tokenizer_kwargs", {"strip_sep_token": True})
    loaded = eqx_clip.load(folder)
    assert bitwise_equal(loaded.text, model.text)
    assert loaded.tokenizer.context_length == 13
    with pytest.raises(ValueError, match=f"the token ids of {name!r}, whose 'tokenizer.json' is"):
        loaded.tokenize(["a cat"])
    eqx_clip.save(loaded, folder / "again")
    assert eqx_clip.load(folder / "again").tokenizer == loaded.tokenizer


def test_numbers_of_numpy_are_numbers():
    numpy = {name: np.int64(value) for name, value in VIT.items()}
    config = ViTConfig(**numpy, mlp_ratio=np.float32(2))
    assert config == ViTConfig(**VIT, mlp_ratio=2)
    types = {type(value) for value in dataclasses.asdict(config).values()}
    assert types <= {int, float, str, bool}


@pytest.mark.parametrize("hidden, ratios", [(6144, (4.3637, 4.364, 6144 / 1408)), (1, (1e-3,))])
def test_towers_of_equal_sizes_are_equal(hidden, ratios):
    config = {"width": 1408, "depth": 1, "num_heads": 1, "embed_dim": 8, "patch_size": 8}
    towers = {ViTConfig(**config, mlp_ratio=ratio) for ratio in ratios}
    assert {int(tower.width * tower.mlp_ratio) for tower in towers} == {hidden}
    assert len(towers) == 1


# Configurations of absurd size

CONTENTS = "model_cfg.vision_cfg.", "model_cfg.text_cfg.", "model_cfg.", "preprocess_cfg."


ABSURD = [
    *(f"{section}{name}" for section in CONTENTS[:2] for name in ("layers", "width", "mlp_ratio")),
    *(f"{CONTENTS[0]}{name}" for name in ("image_size", "patch_size", "head_width")),
    *(f"{CONTENTS[1]}{name}" for name in ("context_length", "vocab_size", "heads")),
    *("model_cfg.embed_dim", "model_cfg.init_logit_scale", "model_cfg.init_logit_bias"),
    *("preprocess_cfg.mean", "preprocess_cfg.std", "preprocess_cfg.fill_color"),
]


NUMBERS = ("init_logit_scale", "init_logit_bias", "mean", "std")  # of any size in float32


@pytest.mark.parametrize("value", [10**9, 2**63, HUGE, -HUGE, 1e308, float("inf"), float("nan")])
@pytest.mark.parametrize("path", ABSURD)
def test_a_configuration_of_absurd_size_is_refused_before_anything_is_read(
    folder, path, value, monkeypatch
):
    if path.endswith(NUMBERS) and value in (10**9, 2**63):
        return
    edit_config(folder, path, value)
    read: list[str] = []
    monkeypatch.setattr(state_dict, "_fill_leaf", lambda entry, *_: read.append(entry.path))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as info:
            eqx_clip.load(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not read and peak < 2**24
    assert len(str(info.value)) < 2000 and str(folder) in str(info.value)


@pytest.mark.parametrize("layers", [100_000, 10**9, 2**62])
def test_more_blocks_than_the_file_holds_are_counted_and_not_listed(folder, layers):
    edit_config(folder, "model_cfg.text_cfg.layers", layers)
    words = f"does not fit: it has 74 tensors, a model of this configuration {12 * layers + 50:,}"
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(folder)


@pytest.mark.parametrize(
    "text",
    ['{"model_cfg": ' * 50_000, "[" * 200_000, "9" * 5000, '{"' + "k" * 10**6 + '": 1}'],
    ids=["deep object", "deep list", "5,000 digits", "long key"],
)
def test_json_that_python_cannot_take_is_refused(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(ValueError) as info:
        eqx_clip.load(folder)
    assert len(str(info.value)) < 1000


@pytest.mark.parametrize("section", ["model_cfg", "vision_cfg", "text_cfg", "preprocess_cfg"])
@pytest.mark.parametrize("value", [None, True, 0, -1, "x" * 10**6, [[[]]], {"a": {"b": []}}])
def test_any_section_of_another_type_is_refused_in_few_words(folder, section, value):
    if section == "preprocess_cfg" and not (value and value != -1):
        return  # as if it were not there
    path = section if section in ("model_cfg", "preprocess_cfg") else f"model_cfg.{section}"
    edit_config(folder, path, value)
    if section == "preprocess_cfg" and isinstance(value, dict):
        eqx_clip.load(folder)  # keys that OpenCLIP leaves aside
    else:
        with pytest.raises(ValueError) as info:
            eqx_clip.load(folder)
        assert len(str(info.value)) < 1000


def test_sides_of_images_have_a_limit():
    for call in (
        lambda: Preprocess(image_size=2**16 + 1),
        lambda: Preprocess(image_size=1e300),
        lambda: eqx_clip.ConvNeXtConfig(**CONVNEXT, image_size=2**16 + 1),
        lambda: ViTConfig(**VIT, image_size=(2**16 + 1, 8)),
    ):
        with pytest.raises(ValueError, match=r"`image_size` must be .*65,?536"):
            call()
