"""State dicts in memory, in the spellings of OpenCLIP that exist."""

import jax.numpy as jnp
import numpy as np
import pytest
from folders import (
    dtypes,
    edit_tensors,
)
from helpers import TINY_RESNET, TINY_VIT, bitwise_equal, tiny

import eqx_clip


# Spellings of a state dict


def renamed(rename):
    def edit(tensors):
        items = [(rename(name), tensor) for name, tensor in tensors.items()]
        tensors.clear()
        tensors.update(items)

    return edit


def custom_text(name):
    return name if name.startswith(("visual.", "logit_")) else f"text.{name}"


@pytest.mark.parametrize(
    "edit",
    [
        renamed(lambda name: f"module.{name}"),
        renamed(custom_text),
        renamed(lambda name: f"module.{custom_text(name)}"),
        lambda tensors: tensors.update(logit_scale=tensors["logit_scale"].reshape(1)),
        renamed(lambda name: f"_orig_mod.{name}"),
        renamed(lambda name: f"module._orig_mod.{name}"),
        renamed(lambda name: f"_orig_mod.module.{name}"),
        renamed(lambda name: f"_orig_mod.module.{custom_text(name)}"),
        renamed(lambda name: name.replace("visual.", "visual._orig_mod.")),
        renamed(lambda name: name.replace(".resblocks.", ".resblocks._fsdp_wrapped_module.")),
    ],
    ids=[
        "module",
        "text",
        "module and text",
        "one-element logit scale",
        "compiled",
        "compiled, then distributed",
        "distributed, then compiled",
        "compiled with a separate text tower",
        "one tower compiled",
        "sharded",
    ],
)
def test_openclips_other_spellings_load(model, folder, edit):
    edit_tensors(folder, edit)
    assert bitwise_equal(eqx_clip.load(folder), model)


def test_from_state_dict_keeps_or_casts_dtypes_and_copies(model):
    tensors = {k: np.array(v) for k, v in eqx_clip.to_state_dict(model).items()}
    loaded = eqx_clip.from_state_dict(TINY_VIT, tensors)
    for tensor in tensors.values():
        tensor[...] = 0
    assert bitwise_equal(loaded, model)
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert dtypes(eqx_clip.from_state_dict(TINY_VIT, half)) == {"float16"}
    assert dtypes(eqx_clip.from_state_dict(TINY_VIT, half, dtype="bfloat16")) == {"bfloat16"}


def test_tensors_that_cannot_be_read_are_named(model):
    class Tensor:
        def __array__(self, *_, **__):
            raise TypeError("Got unsupported ScalarType BFloat16")

    tensors = {**eqx_clip.to_state_dict(model), "visual.proj": Tensor()}
    with pytest.raises(ValueError, match=r"'visual\.proj' cannot be read.*BFloat16.*float\(\)"):
        eqx_clip.from_state_dict(TINY_VIT, tensors)


def test_a_stack_of_mixed_types_has_the_widest_and_runs(model):
    tensors = eqx_clip.to_state_dict(model)
    for name in ("visual.transformer.resblocks.0.ln_1.weight", "token_embedding.weight"):
        tensors[name] = tensors[name].astype(np.float16)
    tensors["positional_embedding"] = tensors["positional_embedding"].astype(np.float16)
    loaded = eqx_clip.from_state_dict(TINY_VIT, tensors)
    assert loaded.image.stack.block.ln_1.weight.dtype == jnp.float32
    assert loaded.text.token_embedding.dtype == jnp.float16
    assert loaded.encode_text(np.arange(13)).dtype == jnp.float32


@pytest.mark.parametrize("buffer", ["running_mean", "running_var", "num_batches_tracked"])
def test_statistics_of_batch_normalisation_that_are_missing_are_told(buffer):
    tensors = eqx_clip.to_state_dict(tiny(TINY_RESNET))
    del tensors[f"visual.bn1.{buffer}"]
    with pytest.raises(ValueError, match=rf"'visual\.bn1\.{buffer}'\. .*buffers included"):
        eqx_clip.from_state_dict(TINY_RESNET, tensors)


def test_sizes_that_openai_stored_as_tensors_are_ignored(model):
    legacy = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), np.int64(7))
    tensors = {**eqx_clip.to_state_dict(model), **legacy}
    assert bitwise_equal(eqx_clip.from_state_dict(TINY_VIT, tensors), model)
