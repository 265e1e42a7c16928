"""What an error says of a wrong argument: never a whole model, array or list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_VIT, tiny

import eqx_clip
from eqx_clip._checks import short_repr


NANO = "vit-nano-patch32"


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "None"),
        ("ViT-B-32", "'ViT-B-32'"),
        (3.5, "3.5"),
        ([1, 2], "[1, 2]"),
        ((48,), "(48,)"),
        ({"a": 1}, "{'a': 1}"),
        (np.zeros((3, 4), np.float32), "float32 array of shape (3, 4)"),
        (jnp.zeros(2), "float32 array of shape (2,)"),
        ([np.zeros(9)], "[float64 array of shape (9,)]"),
        (10**5000, "an integer of 16610 bits"),
        (np.float32(2), "np.float32(2.0)"),
    ],
    ids=lambda x: str(type(x)),
)
def test_short_values_are_written_as_python_does_and_arrays_by_their_shapes(value, text):
    assert short_repr(value) == text


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        b"x" * 10**6,
        list(range(10**6)),
        {str(i): "x" * 1000 for i in range(1000)},
        [["y" * 300] * 10] * 10,
        {"model": [tiny()]},
        type("Long", (), {"__repr__": lambda self: "z" * 10**6})(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_long_values_are_cut(value):
    assert len(short_repr(value)) < 510


def test_an_object_whose_repr_fails_is_written_by_its_class():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    assert "Broken" in short_repr(Broken())


MODEL = tiny()
KEY = jax.random.key(0)
WRONG = [MODEL, np.zeros(10**5), [0.5] * 10**5, "x" * 10**5]
CALLS = {
    "load": lambda x: eqx_clip.load(x),
    "load, tag": lambda x: eqx_clip.load(NANO, x),
    "load, dtype": lambda x: eqx_clip.load(NANO, dtype=x),
    "load, device": lambda x: eqx_clip.load(NANO, device=x),
    "create": lambda x: eqx_clip.create(x, key=KEY),
    "create, key": lambda x: eqx_clip.create(NANO, key=x),
    "create, image_size": lambda x: eqx_clip.create(NANO, key=KEY, image_size=x),
    "create, context_length": lambda x: eqx_clip.create(NANO, key=KEY, context_length=x),
    "create, init_logit_scale": lambda x: eqx_clip.create(NANO, key=KEY, init_logit_scale=x),
    "create, a configuration": lambda x: eqx_clip.create({**TINY_VIT, "embed_dim": x}, key=KEY),
    "create, an option": lambda x: eqx_clip.create({**TINY_VIT, "other": x}, key=KEY),
    "from_state_dict": lambda x: eqx_clip.from_state_dict(x, {}),
    "from_state_dict, tensors": lambda x: eqx_clip.from_state_dict(NANO, {"logit_scale": x}),
    "save": lambda x: eqx_clip.save(MODEL, x if not isinstance(x, str) else 3),
    "list_pretrained_by_model": eqx_clip.list_pretrained_by_model,
    "logits": lambda x: MODEL.logits(x, x),
    "encode_image": MODEL.encode_image,
    "encode_text": MODEL.encode_text,
    "CLIPInference, pretrained": lambda x: eqx_clip.CLIPInference(NANO, x),
    "CLIPInference, softmax_temp": lambda x: eqx_clip.CLIPInference(NANO, softmax_temp=x),
    "embed_texts, batch_size": lambda x: eqx_clip.embed_texts(MODEL, ["a"], batch_size=x),
    "zero_shot_classifier": lambda x: eqx_clip.zero_shot_classifier(MODEL, ["a"], [[x]]),
    "zero_shot_classifier, names": lambda x: eqx_clip.zero_shot_classifier(MODEL, [[x]], ["{}"]),
    "zero_shot_classifier, a template": lambda x: eqx_clip.zero_shot_classifier(
        MODEL, ["a"], ["x" * 10**5]
    ),
    "clip_loss": lambda x: eqx_clip.clip_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), 1.0, method=x),
    "Preprocess": eqx_clip.Preprocess,
    "Preprocess, mean": lambda x: eqx_clip.Preprocess(mean=x),
    "Preprocess, resize_mode": lambda x: eqx_clip.Preprocess(resize_mode=[x]),
    "Augment, scale": lambda x: eqx_clip.Augment(scale=x),
    "Tokenizer": eqx_clip.Tokenizer,
}


@pytest.mark.parametrize("value", WRONG, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("name", CALLS)
def test_no_message_prints_a_model_an_array_or_a_long_value(name, value):
    with pytest.raises(ValueError) as info:
        CALLS[name](value)
    assert len(str(info.value)) < 1500
