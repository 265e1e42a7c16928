"""`load`: what it reads, what it refuses, and what it leaves behind."""

import json
import os
import tracemalloc
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from folders import (
    CONVNEXT,
    NANO,
    VIT,
    WEIGHTS,
    cast,
    drop,
    dtypes,
    edit_config,
    edit_tensors,
    put,
)
from helpers import TINY_VIT, bitwise_equal, tiny
from jax.core import Tracer
from safetensors.numpy import load_file, save_file

import eqx_clip
from eqx_clip import (
    ViTConfig,
    sharding,
)
from eqx_clip.checkpoints.files import safetensors as container
from eqx_clip.checkpoints.files.safetensors import SafetensorsFile
from eqx_clip.checkpoints.rows import state_dict


# Weights that are not whole, or not those of the configuration


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:200],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: np.random.default_rng(0).bytes(4096),
    ],
)
def test_a_damaged_file_is_refused(folder, damage):
    data = damage((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ValueError, match="not a whole safetensors file") as info:
        eqx_clip.load(folder)
    assert f"{len(data):,} bytes" in str(info.value) and str(folder) in str(info.value)


@pytest.mark.parametrize(
    "edit, words",
    [
        (drop("visual.proj"), r"1 tensors are missing, e\.g\. 'visual\.proj'"),
        (drop("transformer.resblocks.1.ln_2.bias"), r"'transformer\.resblocks\.1\.ln_2\.bias'"),
        (put("extra", np.zeros(3, np.float32)), r"1 tensors belong nowhere, e\.g\. 'extra'"),
        (put("visual.proj", np.zeros((24, 40), np.float32)), r"shape \(40, 24\).*has \(24, 40\)"),
        (put("logit_scale", np.zeros(2, np.float32)), r"'logit_scale' must have shape \(\)"),
        (
            put("visual.transformer.resblocks.2.ln_1.bias", np.zeros(1, np.float32)),
            r"resblocks\.2\.ln_1\.bias' must have shape \(40,\)",  # nothing is broadcast
        ),
        (put("visual.proj", np.zeros((40, 24), np.int32)), r"must be of floats; it is of int32"),
        (put("visual.proj", np.zeros((40, 24), bool)), r"must be of floats; it is of bool"),
        (put("logit_bias", np.zeros((), np.float32)), r"belong nowhere, e\.g\. 'logit_bias'"),
        (put("module.visual.proj", np.zeros((40, 24), np.float32)), r"tensors twice"),
        (put("_orig_mod.visual.proj", np.zeros((40, 24), np.float32)), r"tensors twice"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(folder, edit, words):
    edit_tensors(folder, edit)
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.load(folder)
    assert str(folder / WEIGHTS) in str(info.value)


def test_a_state_dict_of_transformers_is_recognised(folder):
    name = "vision_model.encoder.layers.0.self_attn.k_proj.weight"
    save_file({name: np.zeros((4, 4), np.float32)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="those of Hugging Face transformers"):
        eqx_clip.load(folder)


@pytest.mark.parametrize(
    "path, value, words",
    [
        # Sizes that are not those of the weights.
        ("model_cfg.vision_cfg.layers", 4, "12 tensors are missing"),
        ("model_cfg.vision_cfg.layers", 2, "12 tensors belong nowhere"),
        ("model_cfg.embed_dim", 25, "do not belong together"),
        ("model_cfg.text_cfg.vocab_size", 100, r"must have shape \(100, 36\)"),
        ("model_cfg.vision_cfg.image_size", 48, "36 patches, the weights .* of 24, which"),
        ("model_cfg.init_logit_bias", -10, "missing, e.g. 'logit_bias'"),
        # Options that would change the numbers.
        ("model_cfg.vision_cfg.ls_init_value", 1e-5, "`ls_init_value=1e-05` in `vision_cfg`"),
        ("model_cfg.vision_cfg.attentional_pool", True, "`attentional_pool=True`"),
        ("model_cfg.vision_cfg.layers", [3, 4, 6, 3], "look like a ViT's; .* is of a ResNet"),
        ("model_cfg.vision_cfg.timm_model_name", "vit_base_patch16_224", "supported: vit_"),
        ("model_cfg.vision_cfg.timm_model_name", ["convnext_base"], "has no such tower yet"),
        ("model_cfg.text_cfg.hf_model_name", "roberta-base", "`hf_model_name='roberta-base'`"),
        (
            "model_cfg.text_cfg.no_causal_mask",
            "no",
            "`no_causal_mask` in `text_cfg` must be true or",
        ),
        ("model_cfg.text_cfg.norm_kwargs", {"bias": False}, "`norm_kwargs="),
        ("model_cfg.text_cfg.norm_kwargs", {"eps": 0}, "`norm_eps` must be a number above 0"),
        ("model_cfg.text_cfg.act_kwargs", {"approximate": "no"}, "`act_kwargs=.* in `text_cfg`"),
        ("model_cfg.vision_cfg.act_kwargs", 1, "`act_kwargs=1` in `vision_cfg` is not supported"),
        ("model_cfg.text_cfg.proj_type", "mlp", "`proj_type='mlp'` in `text_cfg` is not supp"),
        ("model_cfg.text_cfg.proj_type", "none", "`embed_dim=24` must be `width=36`"),
        ("model_cfg.text_cfg.proj_bias", True, "2 tensors are missing"),
        ("model_cfg.vision_cfg.no_ln_pre", True, "2 tensors belong nowhere, e.g. 'visual.ln_pre"),
        ("model_cfg.vision_cfg.mlp_ration", 4, "`mlp_ration=4` in `vision_cfg` is not known"),
        ("model_cfg.multimodal_cfg", {"width": 1}, "`multimodal_cfg=.* in `model_cfg`"),
        (
            "model_cfg.vision_cfg.pool_type",
            "avg",
            "`pool_type='avg'` with `final_ln_after_pool=Fal",
        ),
        ("model_cfg.text_cfg.pool_type", "first", "`pool_type='first'` in `text_cfg` is not s"),
        ("model_cfg.text_cfg.hf_tokenizer_name", ["openai/clip-vit-base-patch32"], "`hf_tokenizer"),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}, "`tokenizer_kwargs="),
        ("preprocess_cfg.mode", "L", "`mode='L'` must be 'RGB'"),
        # Values of another type, or out of range.
        ("model_cfg", [], "`model_cfg` must be an object"),
        ("model_cfg.vision_cfg", 3, "`vision_cfg` must be an object"),
        ("preprocess_cfg", "imagenet", "`preprocess_cfg` must be an object"),
        ("model_cfg.quick_gelu", "no", "`quick_gelu` must be true or false; got 'no'"),
        ("model_cfg.embed_dim", None, "`embed_dim` must be a whole number"),
        ("model_cfg.vision_cfg.width", "768", "`width` must be a whole number above 0; got '768'"),
        ("model_cfg.vision_cfg.width", 40.0, "`width` must be a whole number above 0; got 40.0"),
        ("model_cfg.vision_cfg.width", -40, "`width` must be a whole number above 0; got -40"),
        ("model_cfg.vision_cfg.width", True, "`width` must be a whole number above 0; got True"),
        ("model_cfg.vision_cfg.head_width", 0, "`head_width` must be a whole number above 0"),
        ("model_cfg.vision_cfg.head_width", 13, "`width=40` must be a multiple of `num_heads=3`"),
        ("model_cfg.vision_cfg.mlp_ratio", "4", "`mlp_ratio` must be a number above 0"),
        ("model_cfg.vision_cfg.image_size", None, "`image_size` must be a whole number above 0, o"),
        ("model_cfg.vision_cfg.image_size", [48], r"height, width\); got \(48,\)"),
        ("model_cfg.vision_cfg.image_size", [-48, 32], r"height, width\); got \(-48, 32\)"),
        ("model_cfg.vision_cfg.image_size", 4, "must hold at least one patch"),
        ("model_cfg.vision_cfg.patch_size", 8.0, "`patch_size` must be a whole number above 0, or"),
        ("model_cfg.text_cfg.heads", 5, "`width=36` must be a multiple of `num_heads=5`"),
        ("model_cfg.text_cfg.heads", 0, "`num_heads` must be a whole number above 0"),
        ("model_cfg.text_cfg.context_length", "13", "`context_length` must be a whole number"),
        ("model_cfg.init_logit_scale", "x", "`init_logit_scale` must be a finite number; got 'x'"),
        ("model_cfg.init_logit_bias", "x", "`init_logit_bias` must be a finite number; got 'x'"),
        ("preprocess_cfg.mean", [0.5, 0.5], "`mean` must be a number, or three"),
        ("preprocess_cfg.std", [1, 1, 0], "`std` must be a positive number"),
        ("preprocess_cfg.interpolation", "lanczos", "`interpolation` must be one of"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, path, value, words):
    edit_config(folder, path, value)
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.load(folder)
    assert str(folder) in str(info.value)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_a_type_that_numpy_does_not_have_is_named(dtype, tmp_path):
    header = json.dumps({"logit_scale": {"dtype": dtype, "shape": [1], "data_offsets": [0, 1]}})
    data = len(header).to_bytes(8, "little") + header.encode() + b"0"
    (tmp_path / WEIGHTS).write_bytes(data)
    with SafetensorsFile(tmp_path / WEIGHTS) as file, pytest.raises(ValueError, match=dtype):
        file["logit_scale"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: eqx_clip.load(None), "`source` must be a name or a path; got None"),
        (lambda: eqx_clip.load(""), "`source` must be a name or a path; got ''"),
        (lambda: eqx_clip.load(NANO, ""), "`tag` must be a name or a path; got ''"),
        (lambda: eqx_clip.load(NANO, 3), "`tag` must be a name or a path; got 3"),
        (lambda: eqx_clip.create(5, key=jax.random.key(0)), "Expected a name, a CLIPConfig"),
        (lambda: eqx_clip.create(NANO, key=jax.random.key(0), dtype="float12"), "'float12'"),
        (lambda: eqx_clip.load("VIT_BASE_PATCH32x"), "Did you mean 'vit-base-patch32'"),
        (lambda: eqx_clip.from_state_dict(NANO, [("a", 1)]), "Expected a state dict"),
        (lambda: ViTConfig(**VIT, activation="relu"), "`activation` must be one of 'gelu', 'qu"),
        (lambda: eqx_clip.ConvNeXtConfig(**CONVNEXT, head="Linear"), "`head` must be one of"),
        (lambda: eqx_clip.ConvNeXtConfig(**CONVNEXT, image_size=7), "below 8 x 8 pixels; got a"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Dtypes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", jnp.float32])
def test_dtype_is_that_of_every_leaf(model, folder, dtype):
    assert bitwise_equal(eqx_clip.load(folder, dtype=dtype), cast(model, dtype))
    assert dtypes(eqx_clip.load(folder, dtype=dtype)) == {jnp.dtype(dtype).name}


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float64"])
def test_a_file_of_another_dtype_loads_as_float32(model, folder, stored):
    edit_tensors(
        folder,
        lambda tensors: tensors.update(
            {name: tensor.astype(jnp.dtype(stored)) for name, tensor in tensors.items()}
        ),
    )
    assert bitwise_equal(eqx_clip.load(folder), cast(model, stored, "float32"))
    if stored != "float64":
        assert dtypes(eqx_clip.load(folder, dtype=stored)) == {stored}


def test_float64_needs_the_64_bit_mode(folder):
    tensors = load_file(folder / WEIGHTS)
    for refused in (
        lambda: eqx_clip.load(folder, dtype="float64"),
        lambda: eqx_clip.load("hf-hub:not/looked/up", dtype="float64"),  # before any download
        lambda: eqx_clip.from_state_dict(TINY_VIT, tensors, dtype="float64"),
        lambda: eqx_clip.create(NANO, key=jax.random.key(0), dtype="float64"),
    ):
        with pytest.raises(ValueError, match=r"needs JAX's 64-bit mode: `jax\.config"):
            refused()


def test_float64_in_the_64_bit_mode(folder, model, x64):
    loaded = eqx_clip.load(folder, dtype="float64")
    assert dtypes(loaded) == {"float64"}
    assert dtypes(eqx_clip.load(folder)) == {"float32"}  # asked for or not, never by the mode
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(model), strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("dtype", ["int8", bool, "complex64"])
def test_other_dtypes_are_refused(folder, dtype):
    with pytest.raises(ValueError, match="must be of floats"):
        eqx_clip.load(folder, dtype=dtype)


# What a load does and leaves behind


def test_equal_checkpoints_have_equal_structures_and_compile_once(model, folder, tmp_path):
    other = tiny(seed=1)
    eqx_clip.save(other, tmp_path / "other")
    traces = []

    @eqx.filter_jit
    def logit_scale(model):
        traces.append(model)
        return jnp.exp(model.logit_scale)

    first, second, again = (eqx_clip.load(f) for f in (folder, tmp_path / "other", folder))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert hash(jax.tree.structure(first)) == hash(jax.tree.structure(second))
    for loaded in (first, second, again, model, eqx_clip.from_state_dict(TINY_VIT, tensors(model))):
        logit_scale(loaded)
    assert len(traces) == 1


def tensors(model):
    return eqx_clip.to_state_dict(model)


def test_models_of_different_activation_or_statistics_do_not_share_a_compilation(model, folder):
    edit_config(folder, "model_cfg.quick_gelu", True)
    assert jax.tree.structure(eqx_clip.load(folder)) != jax.tree.structure(model)
    edit_config(folder, "model_cfg.quick_gelu", False)
    edit_config(folder, "preprocess_cfg.mean", 0.5)
    assert jax.tree.structure(eqx_clip.load(folder)) != jax.tree.structure(model)


def test_every_leaf_is_an_array(model, folder, convnext_folder):
    for loaded in (model, *map(eqx_clip.load, (folder, convnext_folder))):
        leaves = jax.tree.leaves(loaded)
        assert all(eqx.is_array(leaf) and not leaf.weak_type for leaf in leaves)


def test_nothing_is_initialised_at_random(folder, monkeypatch):
    seen = []

    def abstract_only(function):
        def wrapped(key, *args, **kwargs):
            # Without jit a key is abstract nowhere but under `eval_shape`, which computes nothing.
            assert isinstance(key, Tracer)
            seen.append(function)
            return function(key, *args, **kwargs)

        return wrapped

    for name in ("normal", "uniform", "split"):
        monkeypatch.setattr(jax.random, name, abstract_only(getattr(jax.random, name)))
    with jax.disable_jit():
        eqx_clip.load(folder)
    assert len(seen) > 10


def test_there_is_no_second_copy_of_the_weights(tmp_path, monkeypatch):
    # Many tensors and none that is large: the one being read may be there twice.
    vision = {**TINY_VIT["vision_cfg"], "width": 120, "layers": 12}
    text = {**TINY_VIT["text_cfg"], "vocab_size": 100}
    model = tiny({**TINY_VIT, "vision_cfg": vision, "text_cfg": text})
    eqx_clip.save(model, tmp_path)
    eqx_clip.load(tmp_path)
    new_pages, filled = state_dict._new_pages, []

    def record(*arguments):
        array = new_pages(*arguments)
        filled.append(array.ctypes.data)
        return array

    monkeypatch.setattr(state_dict, "_new_pages", record)
    tracemalloc.start()
    try:
        leaves = jax.tree.leaves(eqx_clip.load(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The leaves are the memory that was filled, and next to it there was little.
    assert sorted(leaf.unsafe_buffer_pointer() for leaf in leaves) == sorted(filled)
    assert peak < 2**20 < sum(leaf.nbytes for leaf in leaves) / 4


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
def test_the_file_is_neither_open_nor_mapped_afterwards(model, folder):
    loaded = eqx_clip.load(folder)
    edit_tensors(folder, drop("visual.proj"))
    with pytest.raises(ValueError, match="missing"):
        eqx_clip.load(folder)
    links = [os.readlink(fd.path) for fd in os.scandir("/proc/self/fd") if os.path.exists(fd.path)]
    assert not any(str(folder) in link for link in links)
    assert str(folder) not in Path("/proc/self/maps").read_text()
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
    assert bitwise_equal(loaded, model)  # it does not look at the file any more


# Where the arrays go, and how much memory that takes


def test_arrays_go_to_the_device_or_sharding_asked_for(model, folder):
    device = jax.devices()[-1]
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)), jax.sharding.PartitionSpec()
    )
    for where in (device, sharding):
        loaded = eqx_clip.load(folder, device=where)
        assert bitwise_equal(loaded, model)
        for leaf in jax.tree.leaves(loaded):
            assert where in (leaf.sharding, *leaf.devices())


def test_arrays_are_spread_over_a_mesh(model, folder):
    mesh = sharding.make_mesh(2, 2)
    loaded = eqx_clip.load(folder, device=mesh)
    assert bitwise_equal(loaded, model)
    expected = jax.tree.leaves(sharding.shardings(model, mesh))
    assert any(where.spec != jax.sharding.PartitionSpec() for where in expected)
    assert [leaf.sharding for leaf in jax.tree.leaves(loaded)] == expected


def test_what_is_no_place_for_arrays_is_refused(folder):
    for wrong in ("cpu", jax.devices()):
        with pytest.raises(ValueError, match=r"`device` must be a .* a Mesh; got"):
            eqx_clip.load(folder, device=wrong)
    mesh = sharding.make_mesh(1, 8)
    uneven = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    with pytest.raises(ValueError, match=r"an array of shape .* cannot be placed .*make_mesh"):
        eqx_clip.load(folder, device=uneven)
    other = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    with pytest.raises(ValueError, match=r"with axes 'data' and 'fsdp'; got \('model',\)"):
        eqx_clip.load(folder, device=other)


def test_files_are_closed_and_opened_anew_so_that_few_pages_stay_mapped(model, folder, monkeypatch):
    opened, safe_open = [], safetensors.safe_open

    def counted(*arguments, **options):
        opened.append(arguments)
        return safe_open(*arguments, **options)

    monkeypatch.setattr(safetensors, "safe_open", counted)
    monkeypatch.setattr(container, "MAPPED", 10_000)
    assert bitwise_equal(eqx_clip.load(folder), model)
    assert len(opened) > 5
