"""A stack of blocks is its blocks one after the other, with what they share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from eqx_clip.nn.pooled_stack import stack_at
from eqx_clip.nn.stack import Stack


class Turned(eqx.Module):
    """A block that needs a table, and takes some of its rows by their numbers."""

    weight: Array
    counter: Array

    def __call__(self, x, table, rows):
        return jnp.tanh(x @ self.weight + table[rows] * self.counter)


class TurnedAt(Turned):
    def at(self, x, i, table, rows):
        return jnp.tanh(x[i] @ self.weight + table[rows[i]] * self.counter)


def make(kind, depth):
    def block(key):
        return kind(jax.random.normal(key, (4, 4)), jnp.asarray(2, jnp.int32))

    return Stack(block, depth, key=jax.random.key(0))


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", [Turned, TurnedAt])
@pytest.mark.parametrize("depth", [1, 3])
def test_blocks_share_what_a_stack_is_called_with(kind, depth):
    stack = make(kind, depth)
    x = jax.random.normal(jax.random.key(1), (5, 4))
    table = jax.random.normal(jax.random.key(2), (7, 4))
    rows = jnp.array([3, 1, 4, 1, 5])

    def by_loop(stack, x, table):
        for i in range(depth):
            x = stack[i](x, table, rows)
        return x

    def token_by_loop(arrays):
        return jnp.sum(by_loop(*arrays)[2] ** 2)

    def token(arrays):
        stack, x, table = arrays
        return jnp.sum(stack_at(stack, x, 2, table, rows) ** 2)

    np.testing.assert_allclose(stack(x, table, rows), by_loop(stack, x, table), rtol=1e-6)
    every = stack.intermediates(x, table, rows)
    assert len(every) == depth
    np.testing.assert_allclose(every[-1], by_loop(stack, x, table), rtol=1e-6)
    arrays = stack, x, table
    expected, given = (eqx.filter_value_and_grad(f)(arrays) for f in (token_by_loop, token))
    for a, b in zip(*map(jax.tree.leaves, (given, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
