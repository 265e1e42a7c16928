"""big_vision's npz files of SigLIP: layouts, other sizes, and what is refused."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from big_vision_files import arrays_of, register, rooted, stacked
from folders import CONFIG, edit_config
from helpers import TINY_SIGLIP, TINY_VIT, bitwise_equal

import eqx_clip
from eqx_clip.checkpoints.big_vision.layers import LayerTensors
from eqx_clip.checkpoints.config import config_from_open_clip
from eqx_clip.checkpoints.files.npz import NpzFile


NAME = "ViT-tiny-8-SigLIP"
CONFIG_OF_NAME = config_from_open_clip(TINY_SIGLIP)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    register(monkeypatch, NAME, CONFIG_OF_NAME)


@pytest.fixture
def load(tmp_path):
    """Writes arrays, and loads them by the model's name."""

    def load(arrays, name=NAME, **options):
        np.savez(tmp_path / "weights.npz", **arrays)
        return eqx_clip.load(name, tmp_path / "weights.npz", **options)

    return load


def changed(**arrays):
    return {**arrays_of(CONFIG_OF_NAME), **arrays}


def test_the_configuration_is_the_names(load):
    model = load(stacked(arrays_of(CONFIG_OF_NAME)))
    assert model.image.config == CONFIG_OF_NAME.image
    assert model.text.config.activation == "gelu"  # where big_vision's own has the tanh
    assert model.preprocess == CONFIG_OF_NAME.preprocess
    assert float(model.logit_bias) == arrays_of(CONFIG_OF_NAME)["b"][0]


def test_what_stands_beside_the_parameters_is_passed_over(load):
    arrays = arrays_of(CONFIG_OF_NAME)
    state = {**rooted(arrays), "opt/0/mu/b": np.zeros(1, np.float32), "step": np.asarray(7)}
    assert bitwise_equal(load(state), load(arrays))


def test_bfloat16_and_half_are_read(load):
    arrays = arrays_of(CONFIG_OF_NAME)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        small = {name: array.astype(dtype) for name, array in arrays.items()}
        model = load(small, dtype=jnp.dtype(dtype))
        assert bitwise_equal(model, load(arrays, dtype=jnp.dtype(dtype)))


def test_other_sizes_are_resized_as_those_of_openclips_file(load, tmp_path):
    arrays = arrays_of(CONFIG_OF_NAME)
    eqx_clip.save(load(arrays), tmp_path / "saved")
    sizes = {"image_size": (64, 40), "context_length": 9}
    assert bitwise_equal(load(arrays, **sizes), eqx_clip.load(tmp_path / "saved", **sizes))


def test_a_stack_is_read_once_and_few_are_kept(tmp_path, monkeypatch):
    np.savez(tmp_path / "weights.npz", **stacked(arrays_of(CONFIG_OF_NAME)))
    read, kept, get, stack = [], [], NpzFile.__getitem__, LayerTensors.__getitem__

    def counted(self, key):
        read.append(key)
        return get(self, key)

    def watched(self, key):
        array = stack(self, key)
        kept.append(len(self._stacks))
        return array

    monkeypatch.setattr(NpzFile, "__getitem__", counted)
    monkeypatch.setattr(LayerTensors, "__getitem__", watched)
    eqx_clip.load(NAME, tmp_path / "weights.npz")
    assert len(read) == len(set(read)) and max(kept) == 3


CLASSIFIER = {
    "embedding/kernel": np.zeros((8, 8, 3, 40), np.float32),
    "cls": np.zeros((1, 1, 40), np.float32),
    "head/kernel": np.zeros((40, 10), np.float32),
}
LIT = {"img/head/kernel": np.zeros((40, 40), np.float32), "txt/cls": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    "arrays, words",
    [
        (CLASSIFIER, r"\d+ tensors are missing, e\.g\. 'b', .*3 tensors belong nowhere, e\.g\. 'c"),
        (changed(**LIT), r"2 tensors belong nowhere, e\.g\. 'img/head/kernel', 'txt/cls'"),
        (
            changed(**{"txt/pos_embedding": np.zeros((1, 13, 9), np.float32)}),
            r"'txt/pos_embedding' must have shape \(1, 13, 36\) .* it has \(1, 13, 9\)",
        ),
        (
            changed(**{"img/pos_embedding": np.zeros((36, 40), np.float32)}),
            r"'img/pos_embedding' must have shape \(1, 36, 40\) .* it has \(36, 40\)",
        ),
        (
            changed(**{"img/Transformer/encoderblock/LayerNorm_0/scale": np.zeros((3, 40))}),
            "It holds layers twice, one by one and stacked",
        ),
        (
            changed(**{"t": np.zeros((1,), np.int32)}),
            "Tensor 't' must be of floats; it is of int32",
        ),
    ],
    ids=["classifier", "left over", "shape", "axes", "both layouts", "integers"],
)
def test_other_arrays_are_refused(arrays, words, load):
    with pytest.raises(ValueError, match=words):
        load(arrays)


def test_more_layers_than_the_name_has_are_refused(load):
    arrays = stacked(arrays_of(CONFIG_OF_NAME))
    for name in [name for name in arrays if name.startswith("img/Transformer/encoderblock/")]:
        arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])
    with pytest.raises(
        ValueError, match=r"belong nowhere, e\.g\. 'img/Transformer/encoderblock_3/"
    ):
        load(arrays)


def test_an_architecture_that_is_no_siglip_is_refused(load, monkeypatch):
    register(monkeypatch, "ViT-tiny", config_from_open_clip(TINY_VIT))
    with pytest.raises(ValueError, match=r"SigLIP and SigLIP 2 are read.* has a VisionTransformer"):
        load(arrays_of(CONFIG_OF_NAME), "ViT-tiny")


def test_a_configuration_beside_the_file_is_followed(load, tmp_path):
    arrays = arrays_of(CONFIG_OF_NAME)
    eqx_clip.save(load(arrays), tmp_path)
    edit_config(tmp_path, "model_cfg.text_cfg.act_kwargs", {"approximate": "tanh"})
    assert load(arrays).text.config.activation == "gelu_tanh"
    (tmp_path / CONFIG).unlink()
    assert load(arrays).text.config.activation == "gelu"
