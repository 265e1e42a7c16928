"""Checkpoints: bits, other devices, other models, damage, full disks."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eqx_clip import train
from eqx_clip.train import Checkpointer, SaveSchedule
from eqx_clip.train.run.leaves import checksums


def small_state():
    """One leaf of every kind."""
    return {
        "weights": jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)), jnp.float32),
        "half": jnp.asarray([1.5, -0.0, jnp.nan], jnp.bfloat16),
        "count": jnp.asarray(7, jnp.int32),
        "flags": jnp.asarray([True, False]),
        "bytes": jnp.arange(5, dtype=jnp.uint8),
        "empty": jnp.zeros((0, 4)),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 2),
    }


def bits(tree):
    """Every leaf as dtype and bytes: NaN equals itself and -0 differs from 0."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def saved(folder, state=None, step=4, **options):
    with Checkpointer(folder, **options) as checkpointer:
        checkpointer.save(step, small_state() if state is None else state)
    return folder


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    state = small_state()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(4, state)
        checkpointer.wait()
        restored = checkpointer.restore(jax.eval_shape(lambda: state))
        assert bits(restored) == bits(state)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        draw = jax.random.normal(restored["keys"][0])
        assert draw == jax.random.normal(state["keys"][0])


def test_what_is_being_written_may_be_donated(tmp_path):
    step = jax.jit(lambda weights: weights * 1.5 + 1, donate_argnums=0)
    weights = jnp.arange(500_000.0)
    with Checkpointer(tmp_path) as checkpointer:
        for number in (1, 2, 3):
            weights = step(weights)
            expected = np.array(weights)
            checkpointer.save(number, {"weights": weights})
            for _ in range(5):
                weights = step(weights)
            checkpointer.wait()
            restored = checkpointer.restore({"weights": weights})
            assert np.array_equal(restored["weights"], expected)


def on(devices, array, spec):
    mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
    return jax.device_put(array, NamedSharding(mesh, spec))


def test_eight_devices_then_four_then_one(tmp_path):
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    state = small_state()
    previous = {name: on(devices, leaf, P()) for name, leaf in state.items()}
    previous["weights"] = on(devices, state["weights"], P("data"))
    saved(tmp_path / "8", previous)
    for before, count in ((8, 4), (4, 1)):
        like = {name: on(devices[:count], leaf, P()) for name, leaf in state.items()}
        like["weights"] = on(devices[:count], jnp.zeros((8, 6)), P(None if count == 1 else "data"))
        restored = Checkpointer(tmp_path / str(before)).restore(like)
        assert bits(restored) == bits(state)
        assert len(restored["weights"].sharding.device_set) == count
        assert restored["weights"].sharding == like["weights"].sharding
        saved(tmp_path / str(count), restored)


def test_the_newest_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, small_state())
    assert checkpointer.latest() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_chosen_step_is_restored(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"count": jnp.asarray(10 * step)})
    assert int(Checkpointer(tmp_path).restore({"count": jnp.asarray(0)}, step=1)["count"]) == 10
    with pytest.raises(FileNotFoundError, match=r"of step 3; it holds those of \[1, 2\]"):
        Checkpointer(tmp_path).restore({"count": jnp.asarray(0)}, step=3)


def test_what_is_restored_need_not_be_saved_again(tmp_path):
    checkpointer = Checkpointer(saved(tmp_path))
    checkpointer.save(4, checkpointer.restore(small_state()))
    checkpointer.close()


def test_two_histories_do_not_mix(tmp_path):
    with pytest.raises(ValueError, match="checkpoint of step 4; saving step 3 would mix"):
        saved(saved(tmp_path), step=3)


def test_what_a_save_would_refuse_is_found_before_training(tmp_path):
    with Checkpointer(tmp_path / "new") as checkpointer:
        checkpointer.prepare(0)
        assert (tmp_path / "new").is_dir() and checkpointer.latest() is None
    with Checkpointer(tmp_path / "used") as checkpointer:
        checkpointer.save(5, {"weights": jnp.ones(3)})
    for step in (0, 4):
        with pytest.raises(ValueError, match="holds a checkpoint of step 5"):
            Checkpointer(tmp_path / "used").prepare(step)
    with Checkpointer(tmp_path / "used") as checkpointer:
        checkpointer.prepare(5)


def test_another_model_is_refused_by_path_and_shape(tmp_path):
    saved(tmp_path)
    like = {**small_state(), "weights": jnp.zeros((8, 7))}
    message = r"weights: found float32 \(8, 6\), expected float32 \(8, 7\)"
    with pytest.raises(ValueError, match=message):
        Checkpointer(tmp_path).restore(like)


def test_another_dtype_is_refused(tmp_path):
    saved(tmp_path)
    like = {**small_state(), "weights": jnp.zeros((8, 6), jnp.bfloat16)}
    with pytest.raises(ValueError, match=r"weights: found float32 .*, expected bfloat16"):
        Checkpointer(tmp_path).restore(like)


def test_another_optimizer_is_refused(tmp_path):
    model = tiny()
    saved(tmp_path, train.init_state(model, train.adamw(1e-3)))
    like = eqx.filter_eval_shape(train.init_state, model, optax.sgd(1e-3, momentum=0.9))
    with pytest.raises(ValueError, match=r"opt_state\.0\.trace.*found nothing.*\n(.*\n)+.*more"):
        Checkpointer(tmp_path).restore(like)


def test_another_configuration_is_refused_by_field(tmp_path):
    saved(tmp_path, config={"model": {"width": 8, "layers": (1, 2)}, "seed": 0})
    same = Checkpointer(tmp_path, config={"seed": 0, "model": {"layers": [1, 2], "width": 8}})
    same.restore(small_state())
    other = Checkpointer(tmp_path, config={"model": {"width": 9, "layers": [1, 2]}})
    with pytest.raises(ValueError) as error:
        other.restore(small_state())
    assert "config.model.width: found 8, expected 9" in str(error.value)
    assert "config.seed: found 0, expected nothing" in str(error.value)


def test_dataclasses_are_configurations(tmp_path):
    model = tiny()
    saved(tmp_path, config={"preprocess": model.preprocess})
    Checkpointer(tmp_path, config={"preprocess": model.preprocess}).restore(small_state())
    with pytest.raises(ValueError, match="Got <function"):
        Checkpointer(tmp_path, config={"preprocess": saved})


def test_a_leaf_that_is_no_array_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"`a\.1` is float 0\.5"):
        Checkpointer(tmp_path).save(1, {"a": [jnp.zeros(()), 0.5]})


@pytest.mark.parametrize("make", [None, "empty", "half"])
def test_a_folder_without_a_checkpoint_is_refused_with_what_is_there(tmp_path, make):
    folder = tmp_path / "run"
    if make is not None:
        folder.mkdir()
    if make == "half":
        (folder / "7.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    there = r"\['7\.orbax-checkpoint-tmp'\]" if make == "half" else "nothing"
    with pytest.raises(FileNotFoundError, match=f"no complete checkpoint. In it: {there}"):
        Checkpointer(folder).restore(small_state())
    assert Checkpointer(folder).latest() is None


def test_a_step_of_a_folder_without_any_is_refused_likewise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no complete checkpoint. In it: nothing"):
        Checkpointer(tmp_path / "run").restore(small_state(), step=3)


def test_half_written_checkpoints_are_ignored_told_and_removed_by_the_next_save(tmp_path, caplog):
    saved(tmp_path)
    half = tmp_path / "7.orbax-checkpoint-tmp"
    half.mkdir()
    with Checkpointer(tmp_path) as checkpointer, caplog.at_level(logging.WARNING):
        assert bits(checkpointer.restore(small_state())) == bits(small_state())
        assert half.name in caplog.text and half.exists()
        checkpointer.save(8, small_state())
    assert not half.exists()


def test_logs_and_exports_beside_checkpoints_are_no_damage(tmp_path, caplog):
    saved(tmp_path)
    (tmp_path / "log.jsonl").touch()
    (tmp_path / "open_clip").mkdir()
    with caplog.at_level(logging.WARNING):
        Checkpointer(tmp_path).restore(small_state())
    assert not caplog.text


@pytest.mark.parametrize("part", ["about", "arrays"])
def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path, part):
    saved(tmp_path)
    (tmp_path / "4" / part).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"step 4 .* cannot be read: it has no '{part}'"):
        Checkpointer(tmp_path).restore(small_state())


def test_a_flipped_bit_is_noticed(tmp_path):
    """Of any file of the values, and a good checkpoint is named."""
    state = {"weights": jnp.arange(4096.0), "count": jnp.asarray(1)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state)
        checkpointer.save(4, state)
    files = [path for path in (tmp_path / "4" / "arrays").rglob("*") if path.parent.name == "d"]
    assert files
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(ValueError, match=r"step 4 .* Others there are of steps \[3\]"):
        Checkpointer(tmp_path).restore(state)


def test_values_that_are_not_those_that_were_saved_are_refused(tmp_path):
    saved(tmp_path)
    about = tmp_path / "4" / "about" / "metadata"
    text = about.read_text()
    about.write_text(re.sub(r'("weights": )\d+', r"\g<1>1", text))
    assert about.read_text() != text
    with pytest.raises(ValueError, match=r"the values of \['weights'\] are not those"):
        Checkpointer(tmp_path).restore(small_state())


def test_a_checksum_depends_on_every_word_and_its_place():
    array = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    other, swapped = array.copy(), array.copy()
    other[2, 4, 1] = np.nextafter(other[2, 4, 1], 9)
    swapped[0, 0], swapped[2, 3] = array[2, 3], array[0, 0]
    sums = checksums({"a": array, "b": other, "c": swapped, "d": array.copy()})
    assert len({sums["a"], sums["b"], sums["c"]}) == 3
    assert sums["a"] == sums["d"]


FULL_DISK = """
import logging, resource, signal, sys
import jax.numpy as jnp, numpy as np
from eqx_clip.train import Checkpointer

logging.basicConfig(level=logging.ERROR, format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
state = {"weights": jnp.asarray(np.random.default_rng(0).standard_normal(30000), jnp.float32)}
checkpointer = Checkpointer(sys.argv[1])
checkpointer.save(1, state)
checkpointer.wait()
limit(20000)
checkpointer.save(2, state)
checkpointer.save(3, state)  # tells that the one before failed, raises nothing, fails itself
try:
    checkpointer.wait()
except RuntimeError as error:
    print("wait:", error)
limit(resource.RLIM_INFINITY)
print("latest:", checkpointer.latest(), float(checkpointer.restore(state)["weights"].sum()))
checkpointer.save(4, state)
checkpointer.close()
print("then:", checkpointer.latest(), float(state["weights"].sum()))
"""


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """A file may grow no further, which the writer meets as it meets a full disk."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert re.search(
        r"wait: The last checkpoint was not saved .*The last good one is of step 1", out
    )
    total = re.search(r"latest: 1 (.*)", out)
    assert total and f"then: 4 {total[1]}" in out
    for step in (2, 3):
        assert f"checkpoint of step {step} was not saved" in result.stderr
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["1", "4"]


def test_a_disk_that_is_full_from_the_first_byte_on_is_told_and_tried_again(
    tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise OSError(28, "No space left on device")

    checkpointer = Checkpointer(saved(tmp_path))
    checkpointer.restore(small_state())
    with monkeypatch.context() as patch:
        patch.setattr("eqx_clip.train.run.orbax.Manager.write", full)
        checkpointer.save(5, small_state())
    assert "step 5 was not saved" in caplog.text and "good one is of step 4" in caplog.text
    with pytest.raises(RuntimeError, match="No space left on device"):
        checkpointer.wait()
    checkpointer.save(6, small_state())
    checkpointer.close()
    assert checkpointer.latest() == 6


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Checkpointer(tmp_path / "file" / "run").save(0, small_state())


KILLED = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
from eqx_clip.train import Checkpointer

step = jax.jit(lambda weights: weights * 1.01 + jnp.roll(weights, 1), donate_argnums=0)
with Checkpointer(sys.argv[1], keep=2) as checkpointer:
    weights, latest = jnp.arange(2_000_000.0), checkpointer.latest() or 0
    if latest:
        weights = checkpointer.restore(weights)
    for number in range(latest + 1, 9):
        weights = step(weights)
        print("step", number, flush=True)
        if number % 2 == 0:
            checkpointer.save(number, weights)
            print("saving", number, flush=True)
print(hashlib.sha256(np.asarray(weights).tobytes()).hexdigest(), latest)
"""


def killed_run(folder, mark=None):
    """What a run printed last, or nothing if it was killed after it printed `mark`."""
    command = [sys.executable, "-c", KILLED, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = ""
        for line in process.stdout:
            if line == mark:
                process.kill()
                return ""
    assert process.returncode == 0
    return line


def test_a_run_that_is_killed_ends_at_the_bits_of_one_that_is_not(tmp_path):
    """Killed in training and in a save; `benchmarks/kill.py` does it at 20 random moments."""
    expected, _ = killed_run(tmp_path / "whole").split()
    for mark in ("step 5\n", "saving 4\n"):
        folder = tmp_path / mark.replace(" ", "-").strip()
        killed_run(folder, mark)
        state, resumed_at = killed_run(folder).split()
        assert state == expected
        assert resumed_at in ("2", "4")


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    monkeypatch.delitem(sys.modules, "eqx_clip.train.run.orbax", raising=False)
    monkeypatch.delattr(train, "_orbax", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'eqx_clip\[train\]'"):
        Checkpointer(tmp_path).latest()


def test_saves_are_due_by_steps_and_by_minutes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    by_steps = SaveSchedule(steps=3)
    assert [step for step in range(1, 10) if by_steps.due(step)] == [3, 6, 9]
    either = SaveSchedule(steps=5, minutes=2)
    due = []
    for step in range(1, 12):
        now[0] += 50
        due += [step] if either.due(step) else []
    assert due == [3, 5, 8, 10]  # a save by steps begins the minutes anew
    assert not any(SaveSchedule().due(step) for step in range(1, 5))
    for wrong in ({"steps": 0}, {"minutes": 0}):
        with pytest.raises(ValueError, match="0"):
            SaveSchedule(**wrong)
