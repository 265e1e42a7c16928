import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import eqx_clip
from eqx_clip import sharding
from eqx_clip.losses import ring


def unit_rows(shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_matched_pairs_cost_nothing_and_equal_pairs_cost_chance():
    images = np.eye(8, dtype=np.float32)
    assert eqx_clip.clip_loss(images, images, 100.0) < 1e-6
    same = np.ones((8, 4), np.float32) / 2
    assert eqx_clip.clip_loss(same, same, 100.0) == pytest.approx(math.log(8), abs=1e-5)


def test_loss_is_symmetric_in_images_and_texts():
    images, texts = unit_rows((6, 5), 1), unit_rows((6, 5), 2)
    forth, back = eqx_clip.clip_loss(images, texts, 9.0), eqx_clip.clip_loss(texts, images, 9.0)
    assert forth == pytest.approx(float(back), rel=1e-6)


def test_bfloat16_features_are_summed_in_float32():
    images, texts = unit_rows((64, 128), 1), unit_rows((64, 128), 2)
    low = eqx_clip.clip_loss(
        jnp.asarray(images, jnp.bfloat16), jnp.asarray(texts, jnp.bfloat16), 50.0
    )
    assert low.dtype == jnp.float32
    assert low == pytest.approx(float(eqx_clip.clip_loss(images, texts, 50.0)), rel=2e-2)


def test_unequal_batches_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"got \(6, 5\), \(4, 5\) and \(\)"):
        eqx_clip.clip_loss(unit_rows((6, 5)), unit_rows((4, 5)), 1.0)
    with pytest.raises(ValueError, match=r"got \(6, 5\), \(6, 5\) and \(1,\)"):
        eqx_clip.clip_loss(unit_rows((6, 5)), unit_rows((6, 5)), np.ones(1))


def test_numbers_of_numpy_are_numbers():
    features = unit_rows((6, 5))
    scales = [9.0, 9, np.float32(9), np.exp(np.log(np.float64(9))), jnp.asarray(9.0)]
    losses = [float(eqx_clip.clip_loss(features, features, scale)) for scale in scales]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


def test_loss_has_gradients_for_all_three():
    grads = jax.grad(eqx_clip.clip_loss, argnums=(0, 1, 2))(
        jnp.asarray(unit_rows((6, 5), 1)), jnp.asarray(unit_rows((6, 5), 2)), jnp.asarray(9.0)
    )
    assert all(jnp.isfinite(grad).all() and jnp.abs(grad).max() > 0 for grad in grads)


SCALE, BIAS = 17.3, -3.0
LOSSES = {eqx_clip.clip_loss: (SCALE,), eqx_clip.siglip_loss: (SCALE, BIAS)}
MESHES = {"data": (8,), ("data", "fsdp"): (4, 2)}


def on_mesh(loss, axes, *, method="ring", check_vma=True):
    """The loss of a global batch, each of eight devices with its rows, as a function of arrays."""
    names = (axes,) if isinstance(axes, str) else axes
    mesh = jax.make_mesh(MESHES[axes], names, axis_types=(AxisType.Auto,) * len(names))
    return jax.shard_map(
        lambda *arguments: loss(*arguments, axis_name=axes, method=method),
        mesh=mesh,
        in_specs=(P(axes), P(axes), *(P() for _ in LOSSES[loss])),
        out_specs=P(),
        check_vma=check_vma,
    )


def value_and_grads(loss, function, batch, dtype):
    features = [jnp.asarray(unit_rows((batch, 24), seed), dtype) for seed in (1, 2)]
    scalars = [jnp.asarray(scalar, dtype) for scalar in LOSSES[loss]]
    positions = tuple(range(2 + len(scalars)))
    return jax.jit(jax.value_and_grad(function, argnums=positions))(*features, *scalars)


def assert_equals_one_device(loss, function, batch, dtype=np.float64, atol=1e-12):
    expected = value_and_grads(loss, loss, batch, dtype)
    got = value_and_grads(loss, function, batch, dtype)
    for ours, single in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == single.dtype == dtype
        np.testing.assert_allclose(ours, single, atol=atol, rtol=atol)


every_loss = pytest.mark.parametrize("loss", LOSSES, ids=["clip", "siglip"])
every_method = pytest.mark.parametrize("method", ["ring", "gather"])


@every_loss
@every_method
@pytest.mark.parametrize("axes", MESHES, ids=["8", "4x2"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_value_and_gradients_on_a_mesh_equal_one_device(loss, method, axes, check_vma, x64):
    function = on_mesh(loss, axes, method=method, check_vma=check_vma)
    assert_equals_one_device(loss, function, 64)


@every_loss
@every_method
def test_value_and_gradients_on_a_mesh_equal_one_device_in_float32(loss, method):
    function = on_mesh(loss, ("data", "fsdp"), method=method)
    assert_equals_one_device(loss, function, 64, np.float32, 2e-6)


# Of 40 local rows in chunks of at most 16 the ring makes four of 10; 7 and 37 are not divided.
@every_loss
@pytest.mark.parametrize(("local", "chunks"), [(1, 1), (7, 1), (37, 1), (40, 4)])
def test_ring_in_chunks_equals_one_device(loss, local, chunks, x64, monkeypatch):
    monkeypatch.setattr(ring, "CHUNK", 16)
    assert local // ring._chunk(local) == chunks
    assert_equals_one_device(loss, on_mesh(loss, "data"), 8 * local)


@every_loss
def test_ring_holds_no_matrix_of_local_by_global_size(loss, monkeypatch):
    monkeypatch.setattr(ring, "CHUNK", 16)
    local, width = 48, 24

    def sizes(method):
        function = on_mesh(loss, "data", method=method)
        features = jax.ShapeDtypeStruct((8 * local, width), jnp.float32)
        scalars = [jax.ShapeDtypeStruct((), jnp.float32) for _ in LOSSES[loss]]
        grad = jax.grad(function, argnums=(0, 1, *range(2, 2 + len(scalars))))
        program = jax.jit(grad).lower(features, features, *scalars).compile().as_text()
        shapes = re.findall(r"\b(?:f32|pred|bf16|f64|s32)\[([\d,]+)\]", program)
        return {math.prod(map(int, shape.split(","))) for shape in shapes}

    assert max(sizes("gather")) >= local * 8 * local  # so that this test can see one
    assert max(sizes("ring")) <= local * max(width, 16)


def grads_inside(loss, reduce):
    """Each device's gradients taken inside of `jax.shard_map`, of its own part of the ring loss.

    Not how to do it. By image features, and by the scale after `reduce`; over the right ones.
    """
    features = [jnp.asarray(unit_rows((64, 24), seed), jnp.float64) for seed in (1, 2)]
    scalars = [jnp.asarray(scalar) for scalar in LOSSES[loss]]
    part = ring.ring_clip_loss if loss is eqx_clip.clip_loss else ring.ring_siglip_loss

    def device(image, text, *scalars):
        def local(image, scale):
            varying = (ring.varying(x, "data") for x in (scale, *scalars[1:]))
            return part("data", image, text, *varying)

        image_grad, scale_grad = jax.grad(local, argnums=(0, 1))(image, scalars[0])
        return image_grad, reduce(scale_grad)[None]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    function = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(P("data"), P("data"), *(P() for _ in scalars)),
        out_specs=P("data"),
        check_vma=False,
    )
    expected = jax.grad(loss, argnums=(0, 2))(*features, *scalars)
    got = jax.jit(function)(*features, *scalars)
    return [np.asarray(x) / np.asarray(y) for x, y in zip(got, expected, strict=True)]


# What the comparisons above must see, and do, since they are elementwise.
@every_loss
def test_gradients_of_a_loss_that_is_not_averaged_are_as_many_times_too_large(loss, x64):
    of_image, of_scale = grads_inside(loss, lambda g: jax.lax.psum(g, "data"))
    np.testing.assert_allclose(of_image, 8, rtol=1e-8)
    np.testing.assert_allclose(of_scale, 8, rtol=1e-8)


@every_loss
def test_gradients_that_are_not_reduced_differ_between_devices(loss, x64):
    _, of_scale = grads_inside(loss, lambda g: g)
    assert np.ptp(of_scale) > 0.01
    assert np.mean(of_scale) == pytest.approx(1, rel=1e-8)  # so that a mean hides it


@every_loss
def test_an_unknown_method_is_refused(loss):
    features = unit_rows((6, 5))
    with pytest.raises(ValueError, match="must be 'ring' or 'gather'; got 'rings'"):
        loss(features, features, *LOSSES[loss], method="rings")


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_ring_of_half_precision_is_summed_in_float32(loss, dtype):
    """Not jitted, where XLA would widen a rounded product by itself."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((8, 512), np.float32)
    image = jnp.asarray(image / np.linalg.norm(image, axis=1, keepdims=True), dtype)
    scalars = (100.0,) if loss == "clip" else (100.0, -10.0)
    function = eqx_clip.clip_loss if loss == "clip" else eqx_clip.siglip_loss
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    results = [
        jax.shard_map(
            functools.partial(function, axis_name=sharding.AXES, method=method),
            mesh=mesh,
            in_specs=(P(sharding.AXES), P(sharding.AXES), *(P(),) * len(scalars)),
            out_specs=P(),
        )(image, image, *map(jnp.asarray, scalars))
        for method in ("ring", "gather")
    ]
    # Float32's last place of a logit of 100 is 8e-6; rounded products are 9e-4 away and more.
    np.testing.assert_allclose(*results, atol=2e-4)
