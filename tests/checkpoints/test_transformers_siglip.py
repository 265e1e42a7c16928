"""SigLIP in the format of transformers: which files are read, written, and refused."""

import dataclasses
import json

import jax
import pytest
import small_tokenizers
from folders import edit_json, split_weights
from helpers import TINY_RESNET, TINY_SIGLIP, TINY_SIGLIP2, bitwise_equal, random_model, tiny
from safetensors.numpy import load_file, save_file

import eqx_clip
from eqx_clip import CLIPConfig, Preprocess, TextConfig
from eqx_clip.checkpoints.convert import skeleton
from eqx_clip.checkpoints.transformers.config import (
    config_from_transformers,
    config_to_transformers,
)
from eqx_clip.checkpoints.transformers.preprocess import preprocess_to_transformers
from eqx_clip.tokenizers.json_file import JSONTokenizer
from eqx_clip.towers.timm_vit import TimmViTConfig
from eqx_clip.zoo.architectures import MODELS


PROCESSOR = "preprocessor_config.json"
SQUASHED = Preprocess(48, 0.5, 0.5, resize_mode="squash")


def config_of(**changes) -> CLIPConfig:
    """A small SigLIP with the preprocessing of the published ones."""
    image = TimmViTConfig(
        image_size=48, patch_size=8, width=40, depth=2, num_heads=4, mlp_ratio=3.3
    )
    text = {
        **{"width": 24, "depth": 1, "num_heads": 3, "embed_dim": 40, "vocab_size": 900},
        **{"context_length": 13, "causal": False, "pooling": "last", "projection": "linear"},
    }
    config = CLIPConfig(
        image=image,
        text=TextConfig(**text, norm_eps=1e-6),
        preprocess=SQUASHED,
        tokenizer=JSONTokenizer("org/siglip", clean="canonicalize"),
        init_logit_bias=-10,
    )
    texts = {name: changes.pop(name) for name in [*changes] if hasattr(config.text, name)}
    images = {name: changes.pop(name) for name in [*changes] if hasattr(config.image, name)}
    return dataclasses.replace(
        config,
        image=dataclasses.replace(config.image, **images),
        text=dataclasses.replace(config.text, **texts),
        **changes,
    )


@pytest.fixture(scope="module")
def model():
    return random_model(config_of())


@pytest.fixture
def theirs(model, tmp_path):
    """A saved model in their format; each test may damage its own."""
    eqx_clip.save(model, tmp_path / "theirs", format="transformers")
    return tmp_path / "theirs"


def test_a_folder_loads_whole_and_in_shards(model, theirs):
    assert bitwise_equal(eqx_clip.load(theirs), model)
    split_weights(theirs)
    assert bitwise_equal(eqx_clip.load(theirs), model)
    (theirs / "model-2-of-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 are missing, e\.g\. 'model-2-of-2\.safetensors'"):
        eqx_clip.load(theirs)


@pytest.mark.parametrize("config", [TINY_SIGLIP, TINY_SIGLIP2], ids=["siglip", "siglip 2"])
def test_both_formats_give_one_model(config, tmp_path):
    model = tiny(config)
    eqx_clip.save(model, tmp_path / "one")
    eqx_clip.save(model, tmp_path / "other", format="transformers")
    one, other = (eqx_clip.load(tmp_path / name) for name in ("one", "other"))
    assert bitwise_equal(one, model) and bitwise_equal(other, model)
    sizes = {"image_size": (24, 56), "context_length": 5}
    one, other = (eqx_clip.load(tmp_path / name, **sizes) for name in ("one", "other"))
    assert bitwise_equal(one, other)


def test_query_key_and_value_of_the_head_are_one_tensor(model, theirs):
    tensor = load_file(theirs / "model.safetensors")["vision_model.head.attention.in_proj_weight"]
    assert tensor.shape == (120, 40)
    assert (tensor[:40] == model.image.map_head.q.weight).all()
    assert (tensor[40:] == model.image.map_head.kv.weight).all()


@pytest.mark.parametrize(
    "name",
    [
        "vit-base-patch32",
        "ViT-g-14",
        "ViT-bigG-14",
        "ViT-SO400M-14-SigLIP-384",
        "ViT-gopt-16-SigLIP2-256",
    ],
)
def test_a_registered_model_is_read_as_it_is_written(name):
    model = skeleton(MODELS[name])
    processor = preprocess_to_transformers(model.preprocess)
    config = config_from_transformers(config_to_transformers(model), processor, "here")
    assert jax.tree.structure(skeleton(config)) == jax.tree.structure(model)


# What stands beside the weights


def test_the_tokenizers_files_are_read_and_written(theirs, tmp_path):
    small_tokenizers.write("t5", theirs)
    model = eqx_clip.load(theirs)
    tokens = model.tokenize(["A photo, of the_small red cat!", "a photo of the small red cat"])
    assert tokens.shape == (2, 13) and (tokens[0] == tokens[1]).all()
    assert (tokens[:, -1] == model.tokenizer.vocabulary.pad_id).all()
    eqx_clip.save(model, tmp_path / "again", format="transformers")
    again = eqx_clip.load(tmp_path / "again")
    assert bitwise_equal(again, model)
    assert (again.tokenize("two dogs") == model.tokenize("two dogs")).all()


def test_a_tokenizer_is_called_after_where_it_is_from(theirs):
    assert eqx_clip.load(theirs).tokenizer.name == "org/siglip"
    edit_json(theirs / "config.json", _name_or_path=None)
    model = eqx_clip.load(theirs)
    assert model.tokenizer.name == "theirs"
    with pytest.raises(ValueError, match=f"there is no 'tokenizer.json'.* in {theirs}"):
        model.tokenize("a cat")


def test_a_repository_of_the_hub_loads_with_its_tokenizer(hub, model, theirs):
    small_tokenizers.write("gemma", theirs)
    edit_json(theirs / "config.json", _name_or_path=None)
    hub.add("org/whole", theirs)
    loaded = eqx_clip.load("hf-hub:org/whole")
    assert bitwise_equal((loaded.image, loaded.text), (model.image, model.text))
    assert loaded.tokenizer.name == "org/whole"
    assert (loaded.tokenize("two dogs") == eqx_clip.load(theirs).tokenize("two dogs")).all()


def test_without_an_image_processor_their_defaults_are_taken_and_told(theirs, caplog):
    (theirs / PROCESSOR).unlink()
    assert eqx_clip.load(theirs).preprocess == SQUASHED
    assert "type 'siglip', with mean (0.5, 0.5, 0.5)" in caplog.text


def test_what_an_image_processor_does_not_say_is_the_default_of_its_class(theirs):
    content = {"image_processor_type": "SiglipImageProcessorFast", "resample": 2}
    content |= {"size": {"height": 48, "width": 48}, "crop_size": None, "do_center_crop": None}
    (theirs / PROCESSOR).write_text(json.dumps(content))
    assert eqx_clip.load(theirs).preprocess == dataclasses.replace(
        SQUASHED, interpolation="bilinear"
    )
    content = {"image_processor_type": "CLIPImageProcessor", "size": 48, "crop_size": 48}
    (theirs / PROCESSOR).write_text(json.dumps(content))
    assert eqx_clip.load(theirs).preprocess == Preprocess(48)


# What cannot be equal


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model_type": "siglip2"}, r"`model_type='siglip2'` is not supported: .*\(NaFlex\)"),
        ({"model_type": "siglip_vision_model"}, "those of type 'clip' and 'siglip' are read"),
        ({"model_type": ["siglip"]}, "those of type 'clip' and 'siglip' are read"),
        ({"text_config__hidden_act": "relu"}, "`hidden_act='relu'` in `text_config`"),
        ({"vision_config__hidden_act": "quick_gelu"}, "`hidden_act='quick_gelu'` in `vision_conf"),
        ({"vision_config__vision_use_head": False}, "`vision_use_head=False` in `vision_config`"),
        ({"vision_config__num_channels": 1}, "`num_channels` must be 3; got 1"),
        ({"vision_config__layer_norm_eps": "1"}, "`layer_norm_eps` must be a number above 0"),
        ({"text_config__projection_size": 24}, "`projection_size=24` in `text_config` must be"),
        ({"text_config__projection_size": None}, "`projection_size=24` in `text_config` must be"),
        ({"vision_config__image_size": 56}, "of size 48, and the vision tower takes 56"),
        ({"text_config__vocab_size": 901}, r"must have shape \(901, 24\).* it has \(900, 24\)"),
        ({"vision_config__intermediate_size": 131}, "must have shape"),
        ({"text_config__hidden_size": 27}, "must have shape"),
        ({"vision_config__num_attention_heads": 3}, "must be a multiple of"),
        ({"text_config__num_hidden_layers": 2}, "16 tensors are missing"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(theirs, changes, words):
    edit_json(theirs / "config.json", **changes)
    with pytest.raises(ValueError, match=words) as error:
        eqx_clip.load(theirs)
    assert "open_clip_model" not in str(error.value)  # which would be no remedy here


@pytest.mark.parametrize(
    "name, shape, words",
    [
        ("vision_model.head.attention.in_proj_weight", (121, 40), r"\(120, 40\).* it has \(121"),
        ("text_model.head.bias", None, "1 tensors are missing, e.g. 'text_model.head.bias'"),
        ("text_model.extra", (3,), "1 tensors belong nowhere, e.g. 'text_model.extra'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(theirs, name, shape, words):
    tensors = load_file(theirs / "model.safetensors")
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = next(iter(tensors.values())).copy().repeat(500)[: shape[0]]
        if len(shape) == 2:
            tensors[name] = tensors[name][:, None].repeat(shape[1], 1)
    save_file(tensors, theirs / "model.safetensors")
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(theirs)


def test_an_image_processor_that_leaves_no_square_is_refused(theirs):
    edit_json(theirs / PROCESSOR, size=48, do_center_crop=False)  # the shortest edge, and no crop
    with pytest.raises(ValueError, match="resized by the shortest edge and cropped"):
        eqx_clip.load(theirs)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"causal": True}, "`causal=True` has no place in transformers' format"),
        ({"pooling": "highest_id"}, "`pooling='highest_id'` has no place"),
        ({"projection": "matrix"}, "`projection='matrix'` has no place"),
        ({"activation": "quick_gelu"}, "`activation='quick_gelu'` has no place"),
        ({"image_size": (48, 40), "preprocess": Preprocess((48, 40))}, r"`image_size=\(48, 40\)`"),
        ({"init_logit_bias": None}, "has a `logit_bias`; this model has none"),
        ({"tokenizer": eqx_clip.Tokenizer()}, "a tokenizer of files; this model's is Tokenizer"),
        ({"tokenizer": JSONTokenizer("a", clean="lower")}, "`tokenizer` is .*clean='lower'"),
    ],
)
def test_a_model_that_transformers_cannot_be_is_not_saved(changes, words, tmp_path):
    model = random_model(config_of(**changes))
    with pytest.raises(ValueError, match=words):
        eqx_clip.save(model, tmp_path / "model", format="transformers")
    assert not (tmp_path / "model").exists()


def test_towers_that_transformers_has_not_together_are_not_saved(tmp_path):
    model = tiny(TINY_RESNET)
    with pytest.raises(ValueError, match="this one is of ResNetConfig and TextConfig"):
        eqx_clip.save(model, tmp_path / "model", format="transformers")
