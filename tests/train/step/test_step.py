"""Training without the oracle: purity, donation, compilation, and that it learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bitwise_equal, tiny

import eqx_clip
from eqx_clip import train


TEXTS = ["a cat", "two dogs", "red", "the number 7"]


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def batch(model):
    rng = np.random.default_rng(0)
    size = (model.preprocess.height, model.preprocess.width)
    return {
        "image": rng.integers(0, 256, (len(TEXTS), 3, *size), np.uint8),
        "tokens": model.tokenize(TEXTS),
    }


@pytest.fixture(scope="module")
def optimizer():
    schedule = train.cosine_schedule(1e-3, total_steps=30, warmup_steps=3)
    return train.adamw(schedule)


@pytest.fixture(scope="module")
def step(optimizer):
    return train.make_train_step(optimizer)


def run(step, state, batch, steps):
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_loss_falls_on_a_batch_seen_again_and_again(model, batch, optimizer, step):
    _, losses = run(step, train.init_state(model, optimizer), batch, 20)
    assert losses[-1] < losses[0] / 3


def test_the_users_model_stays_alive_after_a_donated_step(model, batch, optimizer, step):
    before = jax.tree.map(np.array, model)
    state = train.init_state(model, optimizer)
    new, _ = step(state, batch)
    assert bitwise_equal(jax.tree.map(np.array, model), before)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.model))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_a_batch_of_jax_arrays_is_not_donated(model, batch, optimizer, step):
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    step(train.init_state(model, optimizer), batch)
    assert not any(value.is_deleted() for value in batch.values())


def test_step_is_a_pure_function_of_state_and_batch(model, batch, optimizer, step):
    first, losses = run(step, train.init_state(model, optimizer), batch, 3)
    second, same_losses = run(step, train.init_state(model, optimizer), batch, 3)
    assert bitwise_equal(first, second) and losses == same_losses
    assert int(first.step) == 3


def test_a_step_does_without_compiler_options_that_xla_does_not_have(
    model, batch, optimizer, step, monkeypatch
):
    _, expected = step(train.init_state(model, optimizer), batch)
    options = train.step.step._compiler_options
    options.cache_clear()
    monkeypatch.setattr(train.step.step, "_ON_CPU", {"xla_cpu_that_is_no_more": "1"})
    try:
        assert options("cpu") is None
        plain = train.make_train_step(optimizer)
        _, metrics = plain(train.init_state(model, optimizer), batch)
    finally:
        options.cache_clear()
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)


def test_step_is_traced_once(model, batch, optimizer, monkeypatch):
    traces = []
    original = train.step.objective.clip_loss
    monkeypatch.setattr(
        train.step.objective,
        "clip_loss",
        lambda *arguments, **options: traces.append(1) or original(*arguments, **options),
    )
    step = train.make_train_step(optimizer)
    run(step, train.init_state(model, optimizer), batch, 4)
    assert len(traces) == 1


def test_uint8_pixels_are_normalised_inside_the_step(model, batch, optimizer, step):
    floats = {**batch, "image": model.preprocess.normalize(batch["image"])}
    _, on_device = run(step, train.init_state(model, optimizer), batch, 2)
    _, before = run(step, train.init_state(model, optimizer), floats, 2)
    np.testing.assert_allclose(on_device, before, rtol=1e-4)


def test_metrics_are_of_the_batch_before_the_update(model, batch, optimizer, step):
    _, metrics = step(train.init_state(model, optimizer), batch)
    assert set(metrics) == {"loss", "logit_scale", "grad_norm"}
    images = jax.vmap(model.encode_image)(model.preprocess.normalize(batch["image"]))
    texts = jax.vmap(model.encode_text)(batch["tokens"])
    scale = jnp.exp(model.logit_scale)
    assert float(metrics["logit_scale"]) == pytest.approx(float(scale), rel=1e-6)
    expected = eqx_clip.clip_loss(images, texts, scale)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("start", "bound"), [(-0.5, 0.0), (9.0, np.log(100))])
def test_logit_scale_is_clamped_on_both_sides(model, batch, optimizer, step, start, bound):
    model = eqx.tree_at(lambda m: m.logit_scale, model, jnp.asarray(start, jnp.float32))
    state, _ = step(train.init_state(model, optimizer), batch)
    assert float(state.model.logit_scale) == pytest.approx(bound, abs=1e-6)


def test_stacked_biases_and_gains_do_not_decay(model):
    mask = train.weight_decay_mask(model)
    block = mask.image.stack.block
    assert not (block.attn.qkv.bias or block.mlp.up.bias or block.ln_1.weight or block.ln_2.bias)
    assert block.attn.qkv.weight and block.mlp.down.weight
    assert mask.image.positional_embedding and mask.text.token_embedding and mask.text.proj
    assert not (mask.image.class_embedding or mask.logit_scale)


def test_weight_decay_holds_for_a_users_own_module():
    class Probe(eqx.Module):
        tower: eqx.Module
        head: eqx.nn.Linear

    probe = Probe(tiny().image, eqx.nn.Linear(4, 3, key=jax.random.key(0)))
    mask = train.weight_decay_mask(probe)
    assert mask.head.weight and not mask.head.bias
    assert not mask.tower.stack.block.attn.out.bias


@pytest.mark.parametrize(
    "make",
    [
        lambda: train.cosine_schedule(1e-3, total_steps=10, warmup_steps=10),
        lambda: train.cooldown_schedule(1e-3, total_steps=10, cooldown_steps=8, warmup_steps=3),
    ],
)
def test_a_warmup_longer_than_the_training_is_refused(make):
    with pytest.raises(ValueError, match="must be less than `total_steps="):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: train.constant_schedule(1e-3, warmup_steps=-3),
            "`warmup_steps` must be a whole number of at least 0; got -3",
        ),
        (
            lambda: train.cosine_schedule(1e-3, total_steps=9, warmup_steps=-1),
            "`warmup_steps` must be a whole number of at least 0; got -1",
        ),
        (lambda: train.cosine_schedule(1e-3, total_steps=0), "`total_steps`"),
        (
            lambda: train.cooldown_schedule(1e-3, total_steps=9, cooldown_steps=-2),
            "`cooldown_steps` must be a whole number of at least 0; got -2",
        ),
        (
            lambda: train.cooldown_schedule(1e-3, total_steps=9, cooldown_steps=4, warmup_steps=-3),
            "`warmup_steps` must be a whole number of at least 0; got -3",
        ),
        (lambda: train.adamw(1e-3, layer_decay=-0.5), "`layer_decay` must be a number above 0"),
        (lambda: train.adamw(1e-3, layer_decay=0), "`layer_decay` must be a number above 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_warmup_may_begin_above_zero():
    schedule = train.constant_schedule(1.0, warmup_steps=4, warmup_init=0.2)
    rates = [float(schedule(step)) for step in range(6)]
    np.testing.assert_allclose(rates, [0.4, 0.6, 0.8, 1, 1, 1], atol=1e-6)


def test_a_warmup_that_falls_is_warned_of(caplog):
    train.cosine_schedule(1e-6, total_steps=9, warmup_steps=4, warmup_init=1e-5)
    (warning,) = caplog.messages
    assert "from `warmup_init=1e-05` to the learning rate of 1e-06" in warning
    caplog.clear()
    train.cosine_schedule(1e-5, total_steps=9, warmup_steps=4, warmup_init=1e-5)
    assert not caplog.messages


@pytest.mark.parametrize("parts", [1, 2])
def test_the_softmax_loss_of_one_pair_is_refused(model, batch, optimizer, parts):
    """It is 0 whatever the model says, so that only weight decay would train it."""
    step = train.make_train_step(optimizer, accumulate=parts)
    state = train.init_state(model, optimizer)
    one = {name: rows[:parts] for name, rows in batch.items()}
    if parts > 1:  # each part is told from the other
        assert float(step(state, one)[1]["loss"]) > 0
        return
    with pytest.raises(ValueError, match="one pair is always 0"):
        step(state, one)


def test_the_sigmoid_loss_of_one_pair_is_no_mistake(model, batch, optimizer):
    bias = jnp.array(-3.0)
    biased = eqx.tree_at(lambda m: m.logit_bias, model, bias, is_leaf=lambda leaf: leaf is None)
    step = train.make_train_step(optimizer, loss="siglip")
    one = {name: rows[:1] for name, rows in batch.items()}
    _, metrics = step(train.init_state(biased, optimizer), one)
    assert float(metrics["loss"]) > 0


def test_a_step_says_which_shapes_it_will_be_compiled_for(model, batch, optimizer):
    step = train.make_train_step(optimizer)
    shorter = {**batch, "tokens": batch["tokens"][:, :-1]}
    assert step.compiles(batch) and step.compiles(shorter)
    step(train.init_state(model, optimizer), batch)
    assert not step.compiles({**batch, "index": np.arange(4)})  # of no use to the step
    assert step.compiles(shorter)
