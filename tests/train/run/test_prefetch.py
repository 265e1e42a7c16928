"""Batches on their way to the devices."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import images_for, tiny
from jax.sharding import PartitionSpec as P

from eqx_clip import sharding, train


CONTEXT, END = 60, 63
TEXT_LENGTHS = (16, 24, 32, 40, 48)  # those below the context
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 8, "patch_size": 4},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": END + 1,
        "width": 8,
        "heads": 1,
        "layers": 1,
    },
}


@pytest.fixture(scope="module")
def model():
    return tiny(CONFIG)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(2, 1, devices=jax.devices()[:2])


def make_batch(model, longest: int, size: int = 4, seed: int = 0):
    """Captions of so many tokens at most, their end included."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size)
    lengths[rng.integers(size)] = longest
    tokens = rng.integers(1, END, (size, CONTEXT), np.int32)
    tokens[np.arange(CONTEXT) >= lengths[:, None]] = 0
    tokens[np.arange(size), lengths - 1] = END
    return {"image": images_for(model, size, seed), "tokens": tokens, "index": np.arange(size) + 7}


def test_batches_become_global_arrays_and_their_index_stays(model, mesh):
    batches = [make_batch(model, CONTEXT, seed=seed) for seed in range(4)]
    placed = list(train.prefetch(iter(batches), mesh))
    assert len(placed) == 4
    for batch, there in zip(batches, placed, strict=True):
        assert there["image"].sharding.spec == P(sharding.AXES)
        np.testing.assert_array_equal(there["image"], batch["image"])
        np.testing.assert_array_equal(there["tokens"], batch["tokens"])
        np.testing.assert_array_equal(there["index"], batch["index"])


@pytest.mark.parametrize("text", [lambda model: model, lambda model: model.text])
@pytest.mark.parametrize(
    "longest", [1, 15, *(n + i for n in TEXT_LENGTHS for i in (0, 1)), CONTEXT]
)
def test_texts_are_cut_to_the_least_length_that_holds_them(model, mesh, longest, text):
    batch = make_batch(model, longest)
    (placed,) = train.prefetch([batch], mesh, text=text(model))
    length = placed["tokens"].shape[1]
    assert length in (*TEXT_LENGTHS, CONTEXT) and length >= longest
    assert not any(longest <= other < length for other in TEXT_LENGTHS)
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"][:, :length])
    whole = jax.vmap(model.encode_text)(jnp.asarray(batch["tokens"]))
    np.testing.assert_allclose(jax.vmap(model.encode_text)(placed["tokens"]), whole, atol=1e-6)


def test_texts_of_a_tower_that_does_not_allow_it_are_not_cut(model, mesh):
    (placed,) = train.prefetch([make_batch(model, 5)], mesh, text=object())
    assert placed["tokens"].shape[1] == CONTEXT


def test_an_epoch_with_captions_of_every_length_has_a_trace_for_each_length(
    model, mesh, monkeypatch
):
    traced = []
    original = type(model.text).__call__

    def call(self, tokens):
        traced.append(tokens.shape[-1])
        return original(self, tokens)

    monkeypatch.setattr(type(model.text), "__call__", call)
    optimizer = optax.sgd(1e-3)
    step = train.make_train_step(optimizer, mesh)
    state = train.init_state(model, optimizer, mesh)
    epoch = [make_batch(model, longest, seed=longest) for longest in range(1, CONTEXT + 1)]
    used = []
    for batch in train.prefetch(epoch, mesh, text=model.text):
        used.append(batch["tokens"].shape[1])
        state, _ = step(state, batch)
    assert sorted(set(used)) == [*TEXT_LENGTHS, CONTEXT]
    assert sorted(traced) == [*TEXT_LENGTHS, CONTEXT]


def test_an_error_of_the_data_passes_through_after_the_batches_before_it(model, mesh):
    def failing():
        yield make_batch(model, 5)
        yield make_batch(model, 5)
        raise OSError("the disk is gone")

    placed = train.prefetch(failing(), mesh)
    next(placed)
    with pytest.raises(OSError, match="the disk is gone"):
        list(placed)


def test_one_process_has_a_batch_as_soon_as_it_is_drawn(model, mesh):
    late = threading.Event()

    def slow():
        yield make_batch(model, 5)
        assert late.wait(30)  # as where workers end after the last batch

    placed = train.prefetch(slow(), mesh)
    next(placed)
    assert not late.is_set()
    late.set()
    assert not list(placed)


def test_closing_ends_the_thread(model, mesh):
    placed = train.prefetch((make_batch(model, 5) for _ in iter(int, 1)), mesh)
    next(placed)
    assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    placed.close()
    for thread in threading.enumerate():
        if thread.name.startswith("prefetch"):
            thread.join(10)
            assert not thread.is_alive()
