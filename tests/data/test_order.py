"""The order of the data: a permutation for every epoch, from nothing but the seed."""

import tracemalloc

import numpy as np
import pytest

from eqx_clip.data._order import BLOCK, Order


def order(*sizes, factors=None, seed=0, shuffle=True):
    return Order(sizes, factors or (1.0,) * len(sizes), seed, shuffle)


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 1000, BLOCK, BLOCK + 1, 65 * BLOCK + 7])
def test_an_epoch_draws_every_example_once(size, shuffle):
    for epoch in (0, 3):
        drawn = order(size, shuffle=shuffle).indices(epoch, 0, size)
        np.testing.assert_array_equal(np.sort(drawn), np.arange(size))


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_epochs_and_seeds_have_orders_of_their_own(shuffle):
    orders = [
        order(5000, seed=seed, shuffle=shuffle).indices(epoch, 0, 5000)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for i in range(3):
        assert (orders[i] == orders[i - 1]).mean() < 0.01
        assert (orders[i] == np.arange(5000)).mean() < 0.01


def test_a_part_of_an_epoch_does_not_depend_on_the_rest():
    whole = order(1000, seed=5).indices(2, 0, 1000)
    np.testing.assert_array_equal(order(1000, seed=5).indices(2, 300, 420), whole[300:420])


def test_shuffled_neighbours_are_far_apart_and_unrelated():
    """Each tenth of the positions draws as much from each tenth of the data as chance says."""
    size = 100_000
    drawn = order(size, seed=1).indices(0, 0, size)
    counts, *_ = np.histogram2d(np.arange(size), drawn, bins=10)
    expected = size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 140  # 81 degrees of freedom: p > 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02


def test_blocks_stay_within_a_window():
    """A batch of a block shuffle touches few blocks, one of a full shuffle all of them."""
    size, batch = 1000 * BLOCK, 16 * BLOCK
    touched = {
        shuffle: len(np.unique(order(size, shuffle=shuffle).indices(0, 0, batch) // BLOCK))
        for shuffle in ("blocks", True)
    }
    assert touched["blocks"] <= 2 * 64 + 1  # turned by an offset, a block lies in two
    assert touched[True] > 900


def test_blocks_stay_within_a_window_of_a_mixture():
    mixture = order(1000 * BLOCK, 500 * BLOCK, factors=(1.0, 2.0), shuffle="blocks")
    drawn = mixture.indices(0, 0, 16 * BLOCK)
    assert len(np.unique(drawn // BLOCK)) <= 4 * 64 + 2  # turned by an offset twice


def test_hundreds_of_millions_are_not_listed():
    tracemalloc.start()
    drawn = order(400_000_000).indices(7, 4096 * 1000, 4096 * 1001)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(drawn)) == 4096 and drawn.max() > 399e6 * 0.9
    assert peak < 2e6


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
def test_a_mixture_draws_each_part_by_its_factor(shuffle):
    mixture = order(100, 60, factors=(2.0, 0.25), shuffle=shuffle)
    assert mixture.epoch_size == 200 + 15
    for epoch in range(4):
        counts = np.bincount(mixture.indices(epoch, 0, 215), minlength=160)
        assert (counts[:100] == 2).all() and counts[100:].sum() == 15
    drawn = [mixture.indices(epoch, 0, 215) for epoch in range(4)]
    counts = np.bincount(np.concatenate(drawn), minlength=160)
    assert (counts[100:] == 1).all(), "a fraction of a part is another fraction in the next epoch"
