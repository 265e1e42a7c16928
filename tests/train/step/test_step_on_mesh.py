"""The training step on meshes, in parts, in other dtypes, with locked layers: it stays the same."""

import functools
import math
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import bitwise_equal, random_model
from jax.sharding import PartitionSpec as P

from eqx_clip import sharding, train
from eqx_clip.checkpoints.config import config_from_open_clip


BATCH = 32
# All sizes are multiples of eight.
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": [32, 16],
        "layers": 3,
        "width": 32,
        "head_width": 8,
        "patch_size": 8,
        "mlp_ratio": 2.0,
    },
    "text_cfg": {
        "context_length": 8,
        "vocab_size": 64,
        "width": 40,
        "heads": 5,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
    "init_logit_bias": -10.0,
}
TOWERS, OPTIMIZER = ("vision_cfg", "text_cfg"), train.adamw(1e-3)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go():
    """A process holds only so many programs of eight devices."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def make_model(dtype=np.float32, bias=True):
    model = random_model(config_from_open_clip(CONFIG))
    if not bias:
        model = eqx.tree_at(lambda model: model.logit_bias, model, None)
    else:
        model = eqx.tree_at(lambda model: model.logit_bias, model, jnp.asarray(-10.0))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), model)


def make_batch(size=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 3, 32, 16), np.uint8),
        "tokens": rng.integers(1, 64, (size, 8)).astype(np.int32),
    }


def run(shape=None, *, steps=2, dropout=False, **options):
    """What some steps in float64 give: losses and gradient norms, and the last state."""
    mesh = None if shape is None else sharding.make_mesh(*shape)
    init = {}
    if dropout:
        init = {"key": jr.key(3), "ema": True}
        options = {"patch_dropout": 0.5, "ema_decay": 0.9, **options}
    state = train.init_state(make_model(np.float64), OPTIMIZER, mesh, **init)
    step = train.make_train_step(OPTIMIZER, mesh, **options)
    metrics = []
    for i in range(steps):
        state, step_metrics = step(state, make_batch(seed=i))
        metrics.append([float(step_metrics[name]) for name in ("loss", "grad_norm")])
    return np.array(metrics), jax.tree.map(np.asarray, eqx.filter(state, eqx.is_inexact_array))


run_on_one_device = functools.cache(run)


def assert_same(got, expected):
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "loss"),
    [((8, 1), "clip"), ((1, 8), "clip"), ((4, 2), "clip"), ((4, 2), "siglip")],
    ids=["data", "fsdp", "both", "siglip"],
)
def test_steps_on_a_mesh_equal_one_device(shape, loss, x64):
    assert_same(run(shape, loss=loss), run_on_one_device(loss=loss))


@pytest.mark.parametrize(
    ("shape", "accumulate", "remat"),
    [(None, 4, "full"), ((4, 2), 2, "full")],
    ids=["one device", "4x2"],
)
def test_a_batch_in_parts_equals_the_whole_with_the_same_patches_left_out(
    shape, accumulate, remat, x64
):
    parts = run(shape, dropout=True, accumulate=accumulate, remat=remat)
    whole = run_on_one_device(dropout=True)
    assert_same(parts, whole)
    assert abs(whole[0][0, 0] - run_on_one_device(loss="clip")[0][0, 0]) > 1e-6


@pytest.fixture(scope="module")
def deep_state_and_batch():
    deep = {**CONFIG, **{name: {**CONFIG[name], "layers": 12} for name in TOWERS}}
    model = random_model(config_from_open_clip(deep))
    return train.init_state(model, OPTIMIZER), make_batch(256)


@pytest.fixture(scope="module")
def temporary(deep_state_and_batch):
    """Bytes of temporary memory of a step, by its options; each is compiled once."""

    @functools.cache
    def temporary(**options):
        step = train.make_train_step(OPTIMIZER, **options)
        compiled = step.lower(*deep_state_and_batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return temporary


def test_full_rematerialisation_and_parts_take_less_memory(temporary):
    whole = temporary()
    assert temporary(remat="full") < 0.5 * whole
    assert temporary(accumulate=8) < 0.3 * whole


@pytest.mark.skipif(
    train.step.step._compiler_options("cpu") is None, reason="this XLA has no such scheduler"
)
def test_a_cpu_keeps_one_tower_of_a_part_at_a_time(deep_state_and_batch, temporary):
    state, batch = deep_state_and_batch
    halves = train.make_train_step(OPTIMIZER, accumulate=2)
    compiled = halves._step.lower(batch, state).compile().compiled  # what a call runs
    taken = compiled.memory_analysis().temp_size_in_bytes
    assert taken < 0.4 * temporary()
    np.testing.assert_allclose(temporary(accumulate=2), taken, rtol=1e-3)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_is_kept_for_the_gradient_changes_nothing(remat, x64):
    assert_same(run(loss="clip", remat=remat), run_on_one_device(loss="clip"))


def bytes_on(device, tree):
    shards = (s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards)
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def test_fsdp_spreads_model_and_optimizer():
    mesh = sharding.make_mesh(1, 8)
    state = train.init_state(make_model(), OPTIMIZER, mesh)
    for tree in (state.model, state.opt_state):
        total = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        assert max(bytes_on(device, tree) for device in jax.devices()) <= 1.05 * total / 8


def test_the_depth_axis_is_never_spread():
    block = make_model().image.stack.block
    deep = jax.tree.map(lambda leaf: jnp.zeros((800, *leaf.shape[1:])), block)
    model = eqx.tree_at(lambda model: model.image.stack.block, make_model(), deep)
    where = sharding.shardings(model, sharding.make_mesh(1, 8)).image.stack.block
    assert where.mlp.up.weight.spec == P(None, "fsdp")
    for place in jax.tree.leaves(where, is_leaf=lambda x: isinstance(x, jax.sharding.Sharding)):
        assert place.spec[0] is None and "fsdp" in place.spec


def test_rules_come_before_the_default():
    rules = [("text.token_embedding", P()), ("positional", P(None, "fsdp"))]
    model, mesh = make_model(), sharding.make_mesh(4, 2)
    state = train.init_state(model, OPTIMIZER, mesh, rules=rules)
    assert state.model.text.token_embedding.sharding.spec == P()
    assert state.model.text.positional_embedding.sharding.spec == P(None, "fsdp")
    moments = state.opt_state[0].mu  # the optimizer's follow their parameters
    assert moments.text.token_embedding.sharding.spec == P()
    assert state.model.text.proj.sharding.spec == P("fsdp")


def test_on_a_mesh_one_trace_old_buffers_donated_and_the_users_model_alive(monkeypatch):
    traces = []
    original = train.step.objective.clip_loss
    monkeypatch.setattr(
        train.step.objective,
        "clip_loss",
        lambda *args, **options: traces.append(1) or original(*args, **options),
    )
    mesh, model = sharding.make_mesh(4, 2), make_model()
    before = jax.tree.map(np.array, model)
    step = train.make_train_step(OPTIMIZER, mesh)
    first = state = train.init_state(model, OPTIMIZER, mesh)
    places = [leaf.sharding for leaf in jax.tree.leaves(first)]
    for i in range(3):
        state, _ = step(state, make_batch(seed=i))
        if i == 0:
            traced = len(traces)
    assert len(traces) == traced
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((first.model, first.opt_state)))
    assert bitwise_equal(jax.tree.map(np.array, model), before)
    for leaf, place in zip(jax.tree.leaves(state), places, strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_moving_average_moves_by_the_rest_of_the_decay(x64):
    model = make_model(np.float64)
    state = train.init_state(model, OPTIMIZER, ema=True)
    assert bitwise_equal(state.ema, model)
    state, _ = train.make_train_step(OPTIMIZER, ema_decay=0.75)(state, make_batch())
    assert_same(state.ema, jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, model, state.model))


def test_float16_gradients_that_overflow_change_nothing_but_the_scale():
    step = train.make_train_step(OPTIMIZER, dtype=jnp.float16, ema_decay=0.5)
    model = make_model()
    state = train.init_state(model, OPTIMIZER, scale_loss=True, ema=True)
    state = eqx.tree_at(lambda s: s.loss_scale.scale, state, jnp.asarray(2.0**6))
    state, metrics = step(state, make_batch())
    assert float(metrics["loss_scale"]) == float(state.loss_scale.scale) == 2.0**6
    assert int(state.loss_scale.good_steps) == 1
    assert not bitwise_equal(state.model, model)

    state = eqx.tree_at(lambda s: s.loss_scale.scale, state, jnp.asarray(2.0**60))
    before = jax.tree.map(np.array, (state.model, state.opt_state, state.ema))
    state, metrics = step(state, make_batch())
    assert bitwise_equal(jax.tree.map(np.array, (state.model, state.opt_state, state.ema)), before)
    assert not np.isfinite(metrics["grad_norm"]) and np.isfinite(metrics["loss"])
    assert float(metrics["loss_scale"]) == 2.0**60 and float(state.loss_scale.scale) == 2.0**59
    assert int(state.loss_scale.good_steps) == 0 and int(state.step) == 2


def test_loss_scale_doubles_after_2000_good_steps_and_stays_above_one():
    good, bad = jnp.asarray(True), jnp.asarray(False)
    scale = eqx.tree_at(lambda s: s.good_steps, train.LossScale(), jnp.asarray(1998, jnp.int32))
    scale = scale.after(good)
    assert (float(scale.scale), int(scale.good_steps)) == (2.0**15, 1999)
    scale = scale.after(good)
    assert (float(scale.scale), int(scale.good_steps)) == (2.0**16, 0)
    for _ in range(20):
        scale = scale.after(bad)
    assert float(scale.scale) == 1.0


def test_bfloat16_keeps_float32_parameters_and_nearly_the_loss():
    losses = []
    for dtype in (None, jnp.bfloat16):
        state = train.init_state(make_model(), OPTIMIZER)
        state, metrics = train.make_train_step(OPTIMIZER, dtype=dtype)(state, make_batch())
        losses.append(float(metrics["loss"]))
        floats = jax.tree.leaves(eqx.filter((state.model, state.opt_state), eqx.is_inexact_array))
        assert {leaf.dtype for leaf in floats} == {np.dtype("float32")}
        assert metrics["loss"].dtype == np.float32
    assert 1e-7 < abs(losses[1] - losses[0]) < 0.02 * losses[0]


def changed(before, after):
    return jax.tree.map(lambda a, b: np.asarray(a) != np.asarray(b), before, after)


def test_locked_groups_keep_their_bits():
    model = make_model()
    # Of the image tower the projection and the last block learn, of the text tower nothing.
    trainable = train.trainable(model, image_groups=2, text_groups=0)
    optimizer = train.adamw(1e-2, weight_decay=0.5)
    step = train.make_train_step(optimizer, trainable=trainable)
    state, metrics = step(train.init_state(model, optimizer), make_batch())
    moved = changed(model, state.model)
    assert not any(leaf.any() for leaf in jax.tree.leaves(moved.text))
    assert not moved.image.patch.weight.any() and not moved.image.positional_embedding.any()
    for leaf in jax.tree.leaves(moved.image.stack):
        assert not leaf[:-1].any() and leaf[-1].any()
    assert moved.image.proj.any() and moved.image.ln_post.weight.any() and moved.logit_scale

    free = train.make_train_step(optimizer)
    _, all_metrics = free(train.init_state(model, optimizer), make_batch())
    assert float(metrics["loss"]) == pytest.approx(float(all_metrics["loss"]), rel=1e-6)
    assert float(metrics["grad_norm"]) < float(all_metrics["grad_norm"])


def test_lower_takes_shapes():
    model = eqx.filter_eval_shape(make_model)
    state = eqx.filter_eval_shape(train.init_state, model, OPTIMIZER)
    batch = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in make_batch().items()
    }
    lowered = train.make_train_step(OPTIMIZER).lower(state, batch)
    new, metrics = lowered.out_info
    assert metrics["loss"].shape == ()
    assert {leaf.shape for leaf in jax.tree.leaves(new.model)} == {
        leaf.shape for leaf in jax.tree.leaves(model)
    }


def test_a_batch_that_the_mesh_does_not_divide_is_refused_with_one_that_it_does():
    mesh = sharding.make_mesh(4, 2)
    state = train.init_state(make_model(), OPTIMIZER, mesh)
    with pytest.raises(ValueError, match=r"of 36 cannot .* a multiple of 8, such as 32\."):
        train.make_train_step(OPTIMIZER, mesh)(state, make_batch(36))
    with pytest.raises(ValueError, match=r"times 3 parts: choose a multiple of 24, such as 24\."):
        train.make_train_step(OPTIMIZER, mesh, accumulate=3)(state, make_batch(32))
    one = train.init_state(make_model(), OPTIMIZER)
    with pytest.raises(ValueError, match="`accumulate=3` does not divide a batch of 32"):
        train.make_train_step(OPTIMIZER, accumulate=3)(one, make_batch(32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": 4, "fsdp": 4}, "needs 16 devices; there are 8"),
        ({"fsdp": 3}, "`fsdp=3` does not divide the 8 devices"),
        ({"data": 0}, "must be at least 1"),
        ({"fsdp": 0}, "must be at least 1"),
    ],
)
def test_meshes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(**arguments)


@pytest.mark.parametrize(
    ("devices", "data", "message"),
    [
        ((2, 2), 3, "takes 2, 1 devices of the processes"),
        ((2, 2), 2, "takes 2, 0 devices of the processes"),
        ((2, 1), None, "takes 2, 1 devices of the processes"),
    ],
)
def test_every_process_gives_a_mesh_as_many_devices(devices, data, message):
    given = [
        types.SimpleNamespace(process_index=process)
        for process, count in enumerate(devices)
        for _ in range(count)
    ]
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(data, devices=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "siglip"}, "needs a model with a bias"),
        ({"ema_decay": 0.9}, r"init_state\(\.\.\., ema=True\)"),
        ({"patch_dropout": 0.5}, r"init_state\(\.\.\., key=jax\.random\.key\(0\)\)"),
        ({"dtype": jnp.float16}, r"init_state\(\.\.\., scale_loss=True\)"),
    ],
)
def test_a_state_that_lacks_what_the_step_needs_is_refused(options, message):
    state = train.init_state(make_model(bias=False), OPTIMIZER)
    with pytest.raises(ValueError, match=message):
        train.make_train_step(OPTIMIZER, **options)(state, make_batch())


@pytest.mark.parametrize("name", ["image", "tokens"])
def test_a_batch_that_lacks_something_is_refused_with_what_it_has(name):
    model, batch = make_model(), make_batch(8)
    del batch[name]
    for step, of in (
        (train.make_train_step(OPTIMIZER), train.init_state(model, OPTIMIZER)),
        (train.make_eval_step(), model),
    ):
        with pytest.raises(ValueError, match=rf"this one has \[.*so lacks \['{name}'\]"):
            step(of, batch)


def test_what_is_trainable_of_another_model_is_refused():
    state = train.init_state(make_model(), OPTIMIZER)
    for learns in (train.trainable(make_model(bias=False)), {"image": True}):
        with pytest.raises(ValueError, match=r"leaves in another structure than the model"):
            train.make_train_step(OPTIMIZER, trainable=learns)(state, make_batch(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "sigmoid"}, "`loss` must be 'clip', 'siglip' or an objective; got 'sigmoid'"),
        ({"remat": "all"}, "`remat` must be one of 'none', 'dots', 'full'; got 'all'"),
        ({"ema_decay": 1.0}, "`ema_decay` must be at least 0 and less than 1"),
        ({"patch_dropout": 1.0}, "`patch_dropout` must be at least 0 and less than 1"),
        ({"accumulate": 0}, "accumulate"),
        (
            {"dtype": "int8"},
            "`dtype` must be of floats, one of "
            "'float32', 'bfloat16', 'float16', 'float64'; got 'int8'",
        ),
        ({"dtype": "float61"}, "got 'float61'"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        train.make_train_step(OPTIMIZER, **options)


def test_lower_layers_learn_more_slowly_by_layer_decay():
    model = make_model()
    optimizer = train.adamw(1e-2, weight_decay=0.0, layer_decay=0.5)
    plain = train.adamw(1e-2, weight_decay=0.0)
    grads = jax.tree.map(jnp.ones_like, model)
    slowed, _ = optimizer.update(grads, optimizer.init(model), model)
    full, _ = plain.update(grads, plain.init(model), model)
    rates = jax.tree.map(lambda a, b: np.asarray(a / b), slowed, full)
    # Groups of the image tower: embeddings, three blocks (a norm with the last), projection.
    qkv = rates.image.stack.block.attn.qkv.weight
    assert math.isclose(rates.image.patch.weight.max(), 0.5**4, rel_tol=1e-5)
    np.testing.assert_allclose(qkv[:, 0, 0], [0.5**3, 0.5**2, 0.5], rtol=1e-5)
    np.testing.assert_allclose(rates.image.ln_post.weight, 0.5, rtol=1e-5)
    np.testing.assert_allclose(rates.text.token_embedding, 0.5**3, rtol=1e-5)
    for leaf in (rates.image.proj, rates.text.proj, rates.logit_scale, rates.logit_bias):
        np.testing.assert_allclose(leaf, 1, rtol=1e-5)


@pytest.mark.parametrize("parts", [0, -2, 1.5])
def test_a_number_of_parts_that_is_none_is_refused(parts):
    with pytest.raises(ValueError, match="`accumulate` must be a whole number above 0"):
        sharding.check_batch_size(32, sharding.make_mesh(), parts)


def test_float16_on_a_tpu_is_refused_with_what_it_has(monkeypatch):
    tpu = types.SimpleNamespace(platform="tpu")
    monkeypatch.setattr(train.step.step.jax, "devices", lambda: [tpu])
    with pytest.raises(ValueError, match="bfloat16"):
        train.make_train_step(OPTIMIZER, dtype=jnp.float16)
    train.make_train_step(OPTIMIZER, dtype=jnp.bfloat16)


def test_integers_of_a_users_tower_keep_their_type_and_are_no_parameters():
    model = make_model()
    counted = Counted(model.text, jnp.asarray(3, jnp.int32))
    model = eqx.tree_at(lambda model: model.text, model, counted)
    learns = train.trainable(model, image_groups=0)
    state = train.init_state(model, OPTIMIZER, ema=True)
    before = jax.tree.map(np.array, model)
    state, _ = train.make_train_step(OPTIMIZER, ema_decay=0.5, trainable=learns)(
        state, make_batch()
    )
    for tower in (state.model.text, state.ema.text):
        assert tower.count.dtype == jnp.int32 and int(tower.count) == 3
    assert bitwise_equal(jax.tree.map(np.array, state.model.image), before.image)
    assert not bitwise_equal(jax.tree.map(np.array, state.model.text), before.text)


class Counted(eqx.Module):
    tower: eqx.Module
    count: jax.Array

    def __call__(self, tokens):
        return self.tower(tokens)

    @property
    def embed_dim(self):
        return self.tower.embed_dim


@pytest.mark.parametrize(
    "mesh",
    [
        jax.make_mesh((2, 2), ("data", "fsdp"), devices=jax.devices()[:4]),
        jax.make_mesh((8,), ("d",)),
    ],
    ids=["explicit", "other axes"],
)
def test_a_mesh_that_steps_do_not_take_is_refused_with_the_one_that_they_do(mesh):
    for make in (functools.partial(train.make_train_step, OPTIMIZER), train.make_eval_step):
        with pytest.raises(ValueError, match=r"takes a mesh of `eqx_clip\.sharding\.make_mesh`"):
            make(mesh)


def test_a_batch_of_numpy_is_sent_where_transfers_are_guarded():
    mesh = sharding.make_mesh(4, 2)
    state = train.init_state(make_model(), OPTIMIZER, mesh)
    step = train.make_train_step(OPTIMIZER, mesh)
    with jax.transfer_guard("disallow"):
        _, metrics = step(state, make_batch())
    assert np.isfinite(metrics["loss"])
