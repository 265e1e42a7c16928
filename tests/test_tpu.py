"""`benchmarks/tpu.py` on virtual CPU devices in place of a TPU's: libtpu is not needed here."""

import json
import math
import sys

import equinox as eqx
import jax
import numpy as np
import pytest
import tpu
from helpers import tiny

import eqx_clip
from eqx_clip import sharding, train


OF_V3 = "RESOURCE_EXHAUSTED: CompileTimeHbmOom: Ran out of memory. Used 31.42G of 15.48G hbm."
OF_V5E = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (512.0M) exceeds available HBM (15.75G). HLO module: jit_step."
)


def skeleton(name: str) -> eqx_clip.CLIP:
    return eqx.filter_eval_shape(eqx_clip.create, name, key=jax.random.key(0))


def test_memory_of_one_device_of_a_mesh():
    mesh = sharding.make_mesh(fsdp=4, devices=jax.devices()[:4])
    model = eqx.filter_eval_shape(tiny)
    row = tpu.measure(model, mesh, 8, "full")
    inputs = jax.tree.leaves(tpu.abstract_inputs(model, train.adamw(1e-3), mesh, 8))
    shards = [math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in inputs]
    assert row["arguments, GiB"] == pytest.approx(sum(shards) / 2**30, rel=0.01)
    assert sum(shards) < 0.3 * sum(x.size * x.dtype.itemsize for x in inputs)
    assert row["peak, GiB"] >= row["arguments, GiB"] and row["temporary, GiB"] > 0
    assert row["fits"] == "yes"


def test_arguments_are_shapes_that_lie_where_training_puts_them():
    mesh = sharding.make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
    optimizer = train.adamw(1e-3)
    model = tiny()
    state, batch = tpu.abstract_inputs(model, optimizer, mesh, 8)
    real = train.init_state(model, optimizer, mesh)
    assert jax.tree.structure(state) == jax.tree.structure(real)
    for shape, array in zip(jax.tree.leaves(state), jax.tree.leaves(real), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)
    pixels = np.zeros((8, 3, 48, 32), np.uint8)
    tokens = np.zeros((8, 13), np.int32)
    placed = sharding.global_batch({"image": pixels, "tokens": tokens}, mesh)
    for name, array in placed.items():
        assert (batch[name].shape, batch[name].dtype) == (array.shape, array.dtype)
        assert batch[name].sharding == array.sharding


# GFLOP of a forward pass of an image and a text, as OpenCLIP's documentation lists them.
@pytest.mark.parametrize(
    ("name", "gigaflop"),
    [("vit-base-patch32", 14.78), ("vit-base-patch16", 41.09), ("vit-large-patch14", 175.33)],
)
def test_operations_of_a_step(name, gigaflop):
    assert tpu.teraflops(skeleton(name), 1000) == pytest.approx(3 * gigaflop, rel=0.01)


def test_what_does_not_fit_is_told():
    assert tpu.needed(jax.errors.JaxRuntimeError(OF_V3)) == 31.42
    assert tpu.needed(jax.errors.JaxRuntimeError(OF_V5E)) == 0.5
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        tpu.needed(jax.errors.JaxRuntimeError("INTERNAL: Used 1.0G of 2.0G hbm"))


def test_a_table_of_all_cases(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tpu, "devices_of", lambda topology: jax.devices()[: int(topology)])
    monkeypatch.setattr(tpu, "measure", lambda model, mesh, batch, remat: {"fits": "yes"})
    options = "--topologies 1 2 --models vit-nano-patch32 --batches 8 16 --fsdp 1 --json".split()
    monkeypatch.setattr(sys, "argv", ["tpu.py", *options, str(tmp_path / "figures.json")])
    tpu.main()
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert len(rows) == 8  # topologies, batches, and each with and without remat
    assert {row["data x fsdp"] for row in rows} == {"1 x 1", "2 x 1"}
    assert rows[0]["TFLOP"] == pytest.approx(2 * rows[4]["TFLOP"])
    assert "| vit-nano-patch32 |" in capsys.readouterr().out


def test_without_libtpu_says_what_to_install():
    pytest.importorskip("jax.experimental.topologies")
    with pytest.raises(SystemExit, match="pip install libtpu"):
        tpu.devices_of("v0:1x1")
