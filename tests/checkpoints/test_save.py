"""`save` and `to_state_dict`: what is written, what is refused, what a failure leaves behind."""

import dataclasses
import json
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from folders import (
    CONFIG,
    WEIGHTS,
)
from helpers import TINY_CONVNEXT, TINY_VIT, bitwise_equal, tiny
from safetensors import safe_open

import eqx_clip
from eqx_clip import CLIP, Preprocess, Tokenizer, WeightsNotFoundError


def with_dtype(model, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf).astype(jnp.dtype(dtype))), model)


def rebuilt(model, **parts):
    """`model` with other parts, static ones included."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(CLIP)}
    return CLIP(**{**fields, **parts})


# A round trip


VARIANTS = {
    "vit": lambda: tiny(),
    "convnext": lambda: tiny(TINY_CONVNEXT),
    "quick gelu": lambda: tiny({**TINY_VIT, "quick_gelu": True}),
    "convnext, quick gelu in its text tower": lambda: tiny({**TINY_CONVNEXT, "quick_gelu": True}),
    "logit bias": lambda: tiny({**TINY_VIT, "init_logit_bias": -10}),
    "bfloat16": lambda: with_dtype(tiny(), "bfloat16"),
    "float16": lambda: with_dtype(tiny(), "float16"),
    "square image": lambda: tiny(
        {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "image_size": 32}}
    ),
    "preprocessing": lambda: rebuilt(
        tiny(),
        preprocess=Preprocess(
            image_size=(48, 32),
            mean=(0.1, 0.2, 0.3),
            std=(0.4, 0.5, 0.6),
            interpolation="bilinear",
            resize_mode="longest",
            fill_color=128,
        ),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_load_gives_back_what_save_was_given_to_the_bit(name, tmp_path):
    model = VARIANTS[name]()
    eqx_clip.save(model, tmp_path / "a/b")
    assert bitwise_equal(eqx_clip.load(tmp_path / "a/b", dtype=model.logit_scale.dtype), model)
    files = list((tmp_path / "a/b").iterdir())
    assert sorted(path.name for path in files) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("name", ["vit", "convnext", "logit bias", "bfloat16"])
def test_from_state_dict_inverts_to_state_dict(name):
    model = VARIANTS[name]()
    config = {
        "vit": TINY_VIT,
        "convnext": TINY_CONVNEXT,
        "logit bias": {**TINY_VIT, "init_logit_bias": 0},
        "bfloat16": TINY_VIT,
    }[name]
    tensors = eqx_clip.to_state_dict(model)
    assert bitwise_equal(eqx_clip.from_state_dict(config, tensors), model)
    again = eqx_clip.to_state_dict(eqx_clip.from_state_dict(config, tensors))
    assert list(again) == list(tensors)
    for name, tensor in tensors.items():
        assert type(tensor) is np.ndarray and tensor.dtype == again[name].dtype
        assert np.array_equal(tensor, again[name])


def test_resized_models_are_saved_at_their_new_size(model, tmp_path):
    eqx_clip.save(model, tmp_path / "old")
    resized = eqx_clip.load(tmp_path / "old", image_size=64, context_length=20)
    eqx_clip.save(resized, tmp_path / "new")
    assert bitwise_equal(eqx_clip.load(tmp_path / "new"), resized)


def test_the_file_says_that_it_is_of_torch_and_is_readable_by_all_who_may_read_the_rest(
    model, tmp_path
):
    old = os.umask(0o027)
    try:
        eqx_clip.save(model, tmp_path)
    finally:
        os.umask(old)
    # transformers, timm and others refuse safetensors without this word.
    with safe_open(tmp_path / WEIGHTS, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", CONFIG: (tmp_path / CONFIG).read_text()}
    for name in (CONFIG, WEIGHTS):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_other_files_are_left_alone(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "model.safetensors").write_bytes(b"another library's")
    eqx_clip.save(tiny(seed=1), tmp_path)
    eqx_clip.save(model, tmp_path)
    assert bitwise_equal(eqx_clip.load(tmp_path), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["README.md", "model.safetensors", CONFIG, WEIGHTS]
    )
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "model.safetensors").read_bytes() == b"another library's"


def transposed(array):
    """The same numbers, in Fortran's order in memory."""
    return np.asfortranarray(np.asarray(array))


def sliced(array):
    """The same numbers, every second of a larger array."""
    return np.repeat(np.asarray(array), 2, axis=0)[::2]


@pytest.mark.parametrize("lay_out", [transposed, sliced])
def test_memory_layout_does_not_matter(lay_out, model, tmp_path):
    changed = eqx_clip.CLIP(
        image=eqx.tree_at(lambda tower: tower.proj, model.image, replace_fn=lay_out),
        text=eqx.tree_at(lambda tower: tower.token_embedding, model.text, replace_fn=lay_out),
        logit_scale=model.logit_scale,
        preprocess=model.preprocess,
        tokenizer=model.tokenizer,
    )
    eqx_clip.save(changed, tmp_path)
    assert bitwise_equal(eqx_clip.load(tmp_path), model)


# What is refused


class OwnTower(eqx.Module):
    """A user's tower: both of CLIP's inputs are arrays of one example."""

    weight: jax.Array

    @property
    def embed_dim(self):
        return 24

    def __call__(self, example):
        return self.weight * jnp.mean(jnp.asarray(example))


class OwnVision(eqx_clip.VisionTransformer):
    """A user's change of a known tower, whose numbers OpenCLIP would not give."""

    def __call__(self, image):
        return -super().__call__(image)


def own_vision(tower):
    own = object.__new__(OwnVision)
    for field in dataclasses.fields(tower):
        object.__setattr__(own, field.name, getattr(tower, field.name))
    return own


class Adapted(eqx.Module):
    """A layer with something added, as LoRA does it."""

    inner: eqx.Module
    extra: jax.Array


def adapted(model):
    return eqx.tree_at(
        lambda model: model.image.stack.block.attn.out,
        model,
        replace_fn=lambda layer: Adapted(layer, jnp.ones(3)),
    )


def with_other_activation(model):
    quick = tiny({**TINY_VIT, "quick_gelu": True})
    return rebuilt(model, text=quick.text)


REFUSED = {
    "own image tower": (lambda m: rebuilt(m, image=OwnTower(jnp.ones(24))), "no tower like OwnT"),
    "own text tower": (lambda m: rebuilt(m, text=OwnTower(jnp.ones(24))), "no tower like OwnT"),
    "own layer": (adapted, r"no tensor for the leaf 'image\.stack\.block\.attn\.out\."),
    "own class of a known tower": (
        lambda m: rebuilt(m, image=own_vision(m.image)),
        "modules of other classes, or with other options",
    ),
    "a part of a stack": (
        lambda m: eqx.tree_at(lambda m: m.image.stack, m, m.image.stack[:2]),
        r"image\.stack\.block\.\S+ has shape \(2, .*expected \(3, ",
    ),
    "a leaf taken away": (
        lambda m: eqx.tree_at(lambda m: m.image.stack.block.attn.out.bias, m, None),
        r"attn\.out\.bias' has shape None, expected \(3, 40\)",
    ),
    "another activation in each tower": (with_other_activation, "one activation for both"),
    "preprocessing of another size": (
        lambda m: rebuilt(m, preprocess=Preprocess()),
        r"`preprocess` is .*224.*, expected .*\(48, 32\)",
    ),
    "tokenizer of another length": (
        lambda m: rebuilt(m, tokenizer=Tokenizer(7)),
        r"`tokenizer` is .*7.*, expected .*13",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_openclip_cannot_build_is_refused_before_anything_is_written(name, model, tmp_path):
    change, words = REFUSED[name]
    changed = change(model)
    with pytest.raises(ValueError, match=words) as info:
        eqx_clip.save(changed, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    if "activation" not in name:
        assert "eqx.tree_serialise_leaves" in str(info.value)


def test_a_convnext_that_timm_does_not_have_is_refused(tmp_path):
    config = eqx_clip.ConvNeXtConfig(image_size=32, depths=(1, 1), widths=(8, 16), embed_dim=24)
    image = eqx.filter_eval_shape(config.build, key=jax.random.key(0))
    model = rebuilt(tiny(), image=image, preprocess=Preprocess(image_size=32))
    with pytest.raises(ValueError, match=r"timm has no ConvNeXt with depths \(1, 1\)"):
        eqx_clip.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_state_dict_of_unknown_towers_is_refused(model):
    for change in (REFUSED["own image tower"][0], REFUSED["own text tower"][0], adapted):
        with pytest.raises(ValueError, match=r"eqx\.tree_serialise_leaves"):
            eqx_clip.to_state_dict(change(model))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int8", "int32", "complex64"])
def test_weights_that_load_would_refuse_are_refused_before_anything_is_written(
    dtype, model, tmp_path
):
    one = eqx.tree_at(lambda m: m.text.proj, model, replace_fn=lambda x: x.astype(dtype))
    for changed in (with_dtype(model, dtype), one):
        with pytest.raises(ValueError, match=rf"is of {dtype}, which `load` does not read: cast"):
            eqx_clip.save(changed, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_of_several_types_that_load_reads_is_saved(model, tmp_path):
    mixed = eqx.tree_at(lambda m: m.text.proj, model, replace_fn=lambda x: x.astype("bfloat16"))
    eqx_clip.save(mixed, tmp_path)
    loaded = eqx_clip.load(tmp_path)
    assert jnp.array_equal(loaded.text.proj, mixed.text.proj.astype("float32"))


def test_a_home_folder_is_found(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    eqx_clip.save(model, "~/clip")
    assert (tmp_path / "clip" / WEIGHTS).exists()
    assert bitwise_equal(eqx_clip.load("~/clip"), model)


@pytest.mark.parametrize("folder", [None, 3, ""])
def test_what_is_no_folder_is_refused(folder, model):
    with pytest.raises(ValueError, match="`folder` must be a path; got"):
        eqx_clip.save(model, folder)


def test_a_tower_alone_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"Expected an eqx_clip\.CLIP; got VisionTransformer"):
        eqx_clip.to_state_dict(model.image)
    with pytest.raises(ValueError, match=r"Expected an eqx_clip\.CLIP; got VisionTransformer"):
        eqx_clip.save(model.image, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_a_file_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        eqx_clip.save(model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# A failure leaves the old model


def fail_at_call(monkeypatch, owner, name, n, error):
    """The `n`-th call of a function fails; earlier and later ones do not."""
    function, calls = getattr(owner, name), [0]

    def failing(*args, **kwargs):
        calls[0] += 1
        if calls[0] == n:
            raise error
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


STEPS = {
    "writing the weights": (safetensors.numpy, "save_file", 1),
    "writing the configuration": (json, "dumps", 1),
    "opening the configuration": (Path, "write_text", 1),
    "permissions": (shutil, "copymode", 1),
    "flushing the first file": (os, "fsync", 1),
    "flushing the second file": (os, "fsync", 2),
    **{f"renaming {n}": (os, "replace", n) for n in (1, 2)},
}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_leaves_the_old_model_and_nothing_else(step, error, model, tmp_path, monkeypatch):
    eqx_clip.save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    owner, name, n = STEPS[step]
    fail_at_call(monkeypatch, owner, name, n, error)
    with pytest.raises(type(error)):
        eqx_clip.save(tiny({**TINY_VIT, "quick_gelu": True}), tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert bitwise_equal(eqx_clip.load(tmp_path), model)


def test_a_full_disk_is_an_oserror(model, tmp_path, monkeypatch):
    full = safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
    fail_at_call(monkeypatch, safetensors.numpy, "save_file", 1, full)
    with pytest.raises(OSError, match=r"cannot be written to .*: I/O error: No space left"):
        eqx_clip.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_part_of_a_first_model(model, tmp_path, monkeypatch):
    fail_at_call(monkeypatch, os, "replace", 1, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        eqx_clip.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_once_the_weights_are_renamed_the_new_model_is_there(model, tmp_path, monkeypatch):
    eqx_clip.save(model, tmp_path)
    new = tiny({**TINY_VIT, "quick_gelu": True})
    fail_at_call(monkeypatch, os, "replace", 3, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        eqx_clip.save(new, tmp_path)
    assert bitwise_equal(eqx_clip.load(tmp_path), new)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_fault_that_stays_leaves_one_of_the_two_models(n, model, tmp_path, monkeypatch):
    eqx_clip.save(model, tmp_path)
    new, replace, calls = tiny({**TINY_VIT, "quick_gelu": True}), os.replace, []

    def failing(*paths):
        calls.append(paths)
        if len(calls) >= n:
            raise OSError(5, "Input/output error")
        replace(*paths)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        eqx_clip.save(new, tmp_path)
    monkeypatch.undo()
    assert bitwise_equal(eqx_clip.load(tmp_path), new if n == 3 else model)
    eqx_clip.save(new, tmp_path)  # and nothing is in the way of another attempt
    assert bitwise_equal(eqx_clip.load(tmp_path), new)


@pytest.mark.parametrize("n", [1, 2])
def test_a_failure_leaves_an_old_model_whose_weights_have_another_name(
    n, model, tmp_path, monkeypatch
):
    eqx_clip.save(model, tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "model.safetensors")
    fail_at_call(monkeypatch, os, "replace", n, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        eqx_clip.save(tiny({**TINY_VIT, "quick_gelu": True}), tmp_path)
    monkeypatch.undo()
    assert bitwise_equal(eqx_clip.load(tmp_path), model)


# So does a process that is killed

# Imports take seconds, so one process forks the ones that are killed. It starts no JAX backend,
# whose threads would not survive the fork: the models that it reads are of NumPy arrays.
KILLED_SAVER = """
import json, os, pickle, signal, sys, time, warnings

warnings.simplefilter("ignore")
import eqx_clip

models = pickle.load(open(sys.argv[1], "rb"))

def save_for_ever(folder, names, ready, replacements):
    replace, count = os.replace, [0]

    def counted(*args):
        if count[0] == replacements:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args)
        count[0] += 1
        if count[0] == replacements:
            os.kill(os.getpid(), signal.SIGKILL)

    if replacements is None:
        eqx_clip.save(models[names[0]], folder)
    else:
        os.replace = counted
    os.write(ready, b"1")
    while True:
        for name in reversed(names):
            eqx_clip.save(models[name], folder)

for line in sys.stdin:
    task = json.loads(line)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            save_for_ever(task["folder"], task["names"], write, task["replacements"])
        finally:
            os._exit(1)
    os.close(write)
    os.read(read, 1)
    if task["replacements"] is None:
        time.sleep(task["delay"])
        os.kill(pid, signal.SIGKILL)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
SMALLER = {**TINY_VIT, "text_cfg": {**TINY_VIT["text_cfg"], "width": 30}}


@pytest.fixture(scope="module")
def saved_models(model):
    return {
        "a": model,
        "same configuration": tiny(seed=1),
        "same shapes": tiny({**TINY_VIT, "quick_gelu": True}, seed=2),
        "other shapes": tiny(SMALLER, seed=3),
    }


@pytest.fixture(scope="module")
def killed_saver(saved_models, tmp_path_factory):
    """A function that saves models in turn in another process, and kills it."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    path = tmp_path_factory.mktemp("models") / "models.pickle"
    path.write_bytes(pickle.dumps(jax.tree.map(np.asarray, saved_models)))
    command = [sys.executable, "-c", KILLED_SAVER, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        def run(folder, names, *, delay=0.0, replacements=None):
            task = {"folder": str(folder), "names": names}
            task |= {"delay": delay, "replacements": replacements}
            print(json.dumps(task), file=stdin, flush=True)
            assert int(stdout.readline()) == 9  # killed, and by nothing else

        yield run
        stdin.close()


def what_loads(folder, models):
    """The name of the model that a folder holds, or None before the first; a mixture is neither."""
    try:
        loaded = eqx_clip.load(folder)
    except WeightsNotFoundError:
        return None
    names = [name for name, model in models.items() if bitwise_equal(loaded, model)]
    assert len(names) == 1
    return names[0]


@pytest.mark.parametrize(
    "other, states",
    [
        ("same configuration", ["a", "same configuration"]),
        ("same shapes", ["a", "a", "same shapes", "same shapes"]),
        ("other shapes", ["a", "a", "other shapes", "other shapes"]),
    ],
)
def test_killed_between_any_two_renamings(other, states, killed_saver, saved_models, tmp_path):
    found = []
    for replacements in range(len(states)):
        eqx_clip.save(saved_models["a"], tmp_path)
        killed_saver(tmp_path, ["a", other], replacements=replacements)
        found.append(what_loads(tmp_path, saved_models))
    assert found == states
    eqx_clip.save(saved_models["a"], tmp_path)  # whatever a killed process left is in nobody's way
    assert what_loads(tmp_path, saved_models) == "a"


@pytest.mark.parametrize("other", ["same configuration", "same shapes", "other shapes"])
def test_killed_at_any_moment(other, killed_saver, saved_models, tmp_path):
    rng, found = random.Random(other), set()
    for i in range(8):
        folder = tmp_path / str(i)
        killed_saver(folder, ["a", other], delay=rng.uniform(0, 0.6))
        found.add(what_loads(folder, saved_models))
    assert found <= {"a", other, None}
