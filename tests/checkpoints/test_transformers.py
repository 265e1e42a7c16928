"""The format of transformers: which files are read, and what is refused."""

import json
import logging
import os

import jax
import pytest
from folders import CONFIG, NANO, edit_json, split_weights
from helpers import bitwise_equal, tiny

import eqx_clip
from eqx_clip import Preprocess, WeightsNotFoundError


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PROCESSOR = "preprocessor_config.json"


@pytest.fixture
def theirs(nano, tmp_path):
    """A saved model in their format; each test may damage its own."""
    eqx_clip.save(nano, tmp_path / "theirs", format="transformers")
    return tmp_path / "theirs"


def test_a_folder_loads_whole_and_in_shards(nano, theirs):
    assert bitwise_equal(eqx_clip.load(theirs), nano)
    split_weights(theirs)
    assert bitwise_equal(eqx_clip.load(theirs), nano)


def test_a_repository_of_the_hub_loads_whole_and_in_shards(hub, nano, theirs):
    hub.add("org/whole", theirs)
    assert bitwise_equal(eqx_clip.load("hf-hub:org/whole"), nano)
    split_weights(theirs)
    hub.add("org/shards", theirs)
    assert bitwise_equal(eqx_clip.load("hf-hub:org/shards"), nano)
    hub.repos["org/shards"]["main"].pop("model-2-of-2.safetensors")
    with pytest.raises(WeightsNotFoundError, match=r"org/other/model-2-of-2\.safetensors: no such"):
        hub.repos["org/other"] = hub.repos["org/shards"]
        eqx_clip.load("hf-hub:org/other")


def test_of_two_formats_in_a_folder_openclips_is_taken_and_told(theirs, caplog):
    model = tiny()
    eqx_clip.save(model, theirs)
    with caplog.at_level(logging.INFO, "eqx_clip"):
        assert bitwise_equal(eqx_clip.load(theirs), model)
    assert "OpenCLIP's is taken" in caplog.text


def test_without_an_image_processor_its_defaults_are_taken_and_told(theirs, caplog):
    (theirs / PROCESSOR).unlink()
    assert eqx_clip.load(theirs).preprocess == Preprocess(224)
    assert "no 'preprocessor_config.json'" in caplog.text and "mean (0.48" in caplog.text


def test_the_file_of_all_processors_is_read(theirs):
    edit_json(theirs / PROCESSOR, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
    processor = json.loads((theirs / PROCESSOR).read_text())
    (theirs / PROCESSOR).unlink()
    (theirs / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    assert eqx_clip.load(theirs).preprocess == Preprocess(224, 0.5, 0.5)


def test_images_may_be_squashed(theirs):
    edit_json(
        theirs / PROCESSOR, do_center_crop=False, size={"height": 224, "width": 224}, resample=2
    )
    expected = Preprocess(224, interpolation="bilinear", resize_mode="squash")
    assert eqx_clip.load(theirs).preprocess == expected


def test_older_files_hold_a_second_part_which_wins(theirs, nano):
    config = json.loads((theirs / "config.json").read_text())
    config["text_config_dict"] = config["text_config"]
    config["text_config"] = {**config["text_config"], "num_hidden_layers": 7}
    config["vision_config_dict"] = None
    (theirs / "config.json").write_text(json.dumps(config))
    assert bitwise_equal(eqx_clip.load(theirs), nano)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model_type": "clipseg"}, "`model_type='clipseg'` is not supported"),
        ({"text_config__hidden_act": "relu"}, "`hidden_act='relu'` in `text_config`"),
        ({"vision_config__layer_norm_eps": 1e-6}, "`layer_norm_eps=1e-06` in `vision_config`"),
        ({"vision_config__num_channels": 4}, "`num_channels` must be 3; got 4"),
        ({"vision_config__image_size": 256}, "of size 224, and the vision tower takes 256"),
        ({"text_config__eos_token_id": -7}, "`eos_id` must be"),
        ({"text_config": [1]}, "`text_config` must be an object"),
        ({"text_config__hidden_size": 72}, "must be a multiple|must have shape"),
        ({"projection_dim": 5}, "must have shape"),
        ({"vision_config__num_hidden_layers": 9}, "tensors are missing"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(theirs, changes, words):
    edit_json(theirs / "config.json", **changes)
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(theirs)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"do_resize": False}, "`do_resize=False` must be true"),
        ({"do_normalize": None}, None),
        ({"rescale_factor": 1.0}, "`rescale_factor=1.0` must be 1 / 255"),
        ({"rescale_factor": "1 / 255"}, "`rescale_factor='1 / 255'` must be 1 / 255"),
        ({"resample": 0}, "`resample=0` is not supported"),
        ({"resample": [3]}, r"`resample=\[3\]` is not supported"),
        ({"image_mean": "half"}, "`mean` must be a number, or three"),
        ({"crop_size": {"height": 200, "width": 200}}, "resized by the shortest edge and cropped"),
        ({"size": {"longest_edge": 224}}, "resized by the shortest edge and cropped"),
        ({"crop_size": {"side": 224}}, "must be a number, or"),
    ],
)
def test_an_image_processor_that_cannot_be_equal_is_refused(theirs, changes, words, nano):
    edit_json(theirs / PROCESSOR, **changes)
    if words is None:  # what is not said is the default
        assert bitwise_equal(eqx_clip.load(theirs), nano)
        return
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(theirs)


@pytest.mark.parametrize(
    "content, words",
    [
        ("[", "is no index"),
        ('{"weight_map": {"a": 1}}', "is no index"),
        ('{"weight_map": {}}', "is no index"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "missing, e.g. 'gone.safetensors'"),
    ],
)
def test_an_index_that_is_none_is_refused(theirs, content, words):
    (theirs / WEIGHTS).unlink()
    (theirs / INDEX).write_text(content)
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(theirs)


def test_a_tensor_that_is_not_where_the_index_has_it_is_named(theirs):
    split_weights(theirs)
    index = json.loads((theirs / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "model-2-of-2.safetensors"
    (theirs / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"{name}' in 'model-2-of-2"):
        eqx_clip.load(theirs)


def test_a_folder_without_weights_is_refused(theirs):
    (theirs / WEIGHTS).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"expected one of '{WEIGHTS}', '{INDEX}'"):
        eqx_clip.load(theirs)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: tiny(), r"`image_size=\(48, 32\)` .* squares only"),
        (lambda: eqx_clip.create(NANO, key=jax.random.key(0), init_logit_bias=1), "`logit_bias`"),
    ],
)
def test_a_model_that_transformers_cannot_be_is_not_saved(make, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        eqx_clip.save(make(), tmp_path / "model", format="transformers")
    with pytest.raises(ValueError, match="`format` must be one of 'open_clip', 'transformers'"):
        eqx_clip.save(make(), tmp_path / "model", format="onnx")
    assert not (tmp_path / "model").exists()


def test_a_save_that_breaks_off_leaves_the_old_model_or_none(theirs, nano, monkeypatch):
    """Never the old weights with the new configuration."""
    other = eqx_clip.create(NANO, key=jax.random.key(1), image_size=64)
    replaced, replace = [], os.replace

    def breaks_off(source, target):
        replaced.append(target.name)
        if target.name == PROCESSOR:
            raise OSError("The disk is gone.")
        replace(source, target)

    monkeypatch.setattr(os, "replace", breaks_off)
    with pytest.raises(OSError, match="disk is gone"):
        eqx_clip.save(other, theirs, format="transformers")
    assert replaced[:2] == ["config.json.old", WEIGHTS]
    with pytest.raises(ValueError, match=f"There is no '{CONFIG}'"):
        eqx_clip.load(theirs)
