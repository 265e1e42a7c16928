"""Towers and losses on meshes of each kind of axes: the numbers of one device, spread as asked."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_model, smallest_configs
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eqx_clip import clip_loss, siglip_loss


BATCH = 8
KINDS = {"explicit": AxisType.Explicit, "auto": AxisType.Auto}
both_kinds = pytest.mark.parametrize("kind", KINDS)
each_tower = pytest.mark.parametrize("tower", ["vit", "convnext"])


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_quickly_and_let_go():
    """A process holds only so many programs of several devices."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@functools.cache
def make_model(tower):
    return random_model(smallest_configs()[tower])


def make_batch(model, size=BATCH):
    rng = np.random.default_rng(0)
    shape = (size, 3, model.preprocess.height, model.preprocess.width)
    images = rng.standard_normal(shape, np.float32)
    return images, rng.integers(1, 64, (size, 8)).astype(np.int32)


def make_mesh(kind, shape=(4,), names=("d",)):
    return jax.make_mesh(shape, names, axis_types=(KINDS[kind],) * len(names))


def placed(tree, mesh, *spec):
    return jax.device_put(tree, NamedSharding(mesh, P(*spec)))


def encode(model, images, tokens):
    return jax.vmap(model.encode_image)(images), jax.vmap(model.encode_text)(tokens)


def loss(model, images, tokens):
    features, scale = encode(model, images, tokens), jnp.exp(model.logit_scale)
    return clip_loss(*features, scale) + siglip_loss(*features, scale, -1.0)


def value_and_grads(model, images, tokens):
    return eqx.filter_value_and_grad(loss)(model, images, tokens)


@functools.cache
def on_one_device(function, tower):
    model = make_model(tower)
    return jax.tree.map(np.asarray, eqx.filter_jit(function)(model, *make_batch(model)))


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def rows_of(array):
    """The axes of a mesh over which the type of an array spreads its rows."""
    return jax.typeof(array).sharding.spec[0]


@each_tower
@both_kinds
@pytest.mark.parametrize("spec", [("d",), ()], ids=["sharded", "replicated"])
def test_a_batch_on_a_mesh_is_encoded_where_it_lies(tower, kind, spec):
    model, mesh = make_model(tower), make_mesh(kind)
    features = encode(model, *placed(make_batch(model), mesh, *spec))
    assert_same(features, on_one_device(encode, tower))
    wanted = spec[0] if spec and kind == "explicit" else None
    assert [rows_of(x) for x in features] == [wanted, wanted]
    assert all(x.sharding.is_fully_replicated == (spec == ()) for x in features)


@pytest.mark.parametrize(
    ("tower", "kind"), [("vit", "explicit"), ("convnext", "explicit"), ("vit", "auto")]
)
def test_the_gradient_of_the_losses_of_a_sharded_batch_is_that_of_one_device(tower, kind):
    model, mesh = make_model(tower), make_mesh(kind)
    batch = placed(make_batch(model), mesh, "d")
    found = eqx.filter_jit(value_and_grads)(placed(model, mesh), *batch)
    assert_same(found, on_one_device(value_and_grads, tower))


def test_a_gradient_outside_of_jit_is_taken_where_a_mesh_is_set():
    model, mesh = make_model("vit"), make_mesh("explicit")
    batch = placed(make_batch(model), mesh, "d")
    with jax.set_mesh(mesh):
        grads = eqx.filter_grad(loss)(model, *batch)
    assert_same(grads, on_one_device(value_and_grads, "vit")[1])


def test_axes_of_both_kinds_may_be_mixed():
    model = make_model("vit")
    mesh = jax.make_mesh((2, 2), ("d", "e"), axis_types=(AxisType.Explicit, AxisType.Auto))
    batch = placed(make_batch(model), mesh, ("d", "e"))
    features = eqx.filter_jit(encode)(model, *batch)
    assert_same(features, on_one_device(encode, "vit"))
    assert [rows_of(x) for x in features] == ["d", "d"]


def test_parameters_may_be_sharded_over_the_axis_of_the_batch():
    model, mesh = make_model("vit"), make_mesh("explicit")

    def spread(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % 4 == 0]
        return placed(leaf, mesh, *(None,) * axes[-1], "d") if axes else placed(leaf, mesh)

    sharded = jax.tree.map(spread, model)
    batch = placed(make_batch(model), mesh, "d")
    grads = eqx.filter_jit(value_and_grads)(sharded, *batch)
    assert_same(grads, on_one_device(value_and_grads, "vit"))
    wanted = jax.tree.map(lambda leaf: leaf.sharding, sharded)
    assert jax.tree.map(lambda leaf: leaf.sharding, grads[1]) == wanted
    assert_same(encode(sharded, *batch), on_one_device(encode, "vit"))


@each_tower
def test_features_and_intermediates_of_a_sharded_batch_lie_as_it_does(tower):
    model, mesh = make_model(tower), make_mesh("explicit")
    images, tokens = make_batch(model)
    of_images = (model.image.features, model.image.intermediates)
    of_texts = (model.text.features, model.text.intermediates, model.text)
    for method, batch in (
        (m, x) for ms, x in ((of_images, images), (of_texts, tokens)) for m in ms
    ):
        found = jax.vmap(method)(placed(batch, mesh, "d"))
        assert_same(found, jax.vmap(method)(batch))
        assert {rows_of(x) for x in jax.tree.leaves(found)} == {"d"}


def test_logits_lie_as_their_images_do():
    model, mesh = make_model("vit"), make_mesh("explicit", (2, 2), ("d", "e"))
    images, texts = on_one_device(encode, "vit")
    expected = model.logits(images, texts)
    for rows, columns, wanted in (
        ("d", "d", P("d", None)),
        ("d", None, P("d", None)),
        (None, "d", P(None, "d")),
        ("d", "e", P("d", "e")),
        (("d", "e"), "e", P(("d", "e"), None)),
    ):
        found = model.logits(placed(images, mesh, rows), placed(texts, mesh, columns))
        assert jax.typeof(found).sharding.spec == wanted
        assert_same(found, expected)


@pytest.mark.parametrize(
    ("tower", "kind", "check_vma"),
    [("vit", "explicit", True), ("vit", "auto", False), ("convnext", "auto", True)],
)
def test_towers_and_losses_compute_inside_shard_map(tower, kind, check_vma):
    model, mesh = make_model(tower), make_mesh(kind)

    def local(model, images, tokens):
        features, scale = encode(model, images, tokens), jnp.exp(model.logit_scale)
        by_ring = clip_loss(*features, scale, axis_name="d")
        return by_ring + siglip_loss(*features, scale, -1.0, axis_name="d", method="gather")

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P(), check_vma=check_vma
    )
    found = eqx.filter_jit(eqx.filter_value_and_grad(sharded))(
        model, *placed(make_batch(model), mesh, "d")
    )
    assert_same(found, on_one_device(value_and_grads, tower))


@pytest.mark.parametrize("method", ["ring", "gather"])
def test_a_loss_over_one_axis_takes_rows_sharded_over_another(method):
    mesh = make_mesh("explicit", (2, 2), ("d", "e"))
    images, texts = on_one_device(encode, "vit")
    sharded = jax.shard_map(
        functools.partial(clip_loss, axis_name="d", method=method),
        mesh=mesh,
        in_specs=(P("d"), P("d"), P()),
        out_specs=P(),
        axis_names={"d"},
    )
    found = jax.jit(sharded)(*placed((images, texts), mesh, ("d", "e")), placed(9.0, mesh))
    np.testing.assert_allclose(found, clip_loss(images, texts, 9.0), rtol=1e-5)
