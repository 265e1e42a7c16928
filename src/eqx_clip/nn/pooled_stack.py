"""One token of a stack's output, and its derivative, at the cost of that token in the last block.

A tower reads one token of its last block. In that block only this token needs a query's scores, an
output and an MLP: `Block.at`. The blocks below are whole. So with blocks f_0 ... f_(n-1) of weights
w_0 ... w_(n-1), stacked in one array w along the depth,

    x_(k+1) = f_k(w_k, x_k),    y = f_(n-1)(w_(n-1), x_(n-1))[i]

and by the chain rule, going forward,

    dx_(k+1) = df_k/dw dw_k + df_k/dx dx_k,    dy likewise, for token i alone.

JAX would find the same by itself. But it would either slice w in two, a copy of nearly all weights,
or index it in the loop, whose transpose adds each layer's gradient into an array of all of them.
Here w is indexed, and the tangents dw are split into the last and the others, which the loop scans;
the transpose of that is a loop that writes each layer's gradient once, and a concatenation.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PyTree

from .stack import Index, Stack, depth_of, widened


def stack_at(
    stack: Callable[..., Array], x: Float[Array, "tokens width"], i: Index, *shared: PyTree
) -> Float[Array, " width"]:
    """`stack(x, *shared)[i]`, the last block computed for that token only, by its method `at`."""
    if not isinstance(stack, Stack):  # a user has put another in its place
        return stack(x, *shared)[i]
    arrays, fixed = eqx.partition((stack.block, shared), eqx.is_inexact_array)
    weights, shared_arrays = arrays
    return _at(weights, shared_arrays, fixed, widened(x, stack.block), jnp.asarray(i))


def block_at(
    block: Any, x: Float[Array, "tokens width"], i: Index, *shared: PyTree
) -> Float[Array, " width"]:
    """`block(x, *shared)[i]`, by its method `at` if it has one."""
    return block.at(x, i, *shared) if hasattr(block, "at") else block(x, *shared)[i]


# What is differentiated of blocks and shared inputs stands apart from what is fixed of both.
@jax.custom_jvp
def _at(weights: PyTree, shared: PyTree, fixed: PyTree, x: Array, i: Int[Array, ""]) -> Array:
    # By index, since a slice of the stack would be a copy of nearly all the weights.
    def step(x, n):
        return _call(_layer(weights, n), shared, _fixed_layer(fixed, n), x), None

    depth = depth_of(weights)
    if depth > 1:  # without compilation JAX has no scan of nothing
        x, _ = jax.lax.scan(step, x, jnp.arange(depth - 1))
    last = _layer(weights, depth - 1)
    return _call(last, shared, _fixed_layer(fixed, depth - 1), x, i)


@_at.defjvp
def _at_jvp(primals, tangents):
    weights, shared, fixed, x, i = primals
    d_weights, d_shared, _, d_x, _ = tangents
    depth = depth_of(weights)
    leaves, structure = jax.tree.flatten(d_weights)
    parts = [jax.lax.split(leaf, (depth - 1, 1)) for leaf in leaves]
    d_lower, d_last = (jax.tree.unflatten(structure, part) for part in zip(*parts, strict=True))

    # Within what is checkpointed by a block's own policy, weights are not kept but indexed again.
    everything = jax.checkpoint_policies.everything_saveable
    policy = getattr(eqx.combine(weights, fixed[0]), "policy", everything)

    @functools.partial(jax.checkpoint, policy=policy, prevent_cse=False)
    def block_jvp(weights, shared, fixed, n, x, d_block, d_shared, d_x):
        return _call_jvp(weights, shared, fixed, n, (x, d_x), d_block, d_shared)

    def step(x_and_tangent, n_and_tangent):
        (x, d_x), (n, d_block) = x_and_tangent, n_and_tangent
        return block_jvp(weights, shared, fixed, n, x, d_block, d_shared, d_x), None

    both = x, d_x
    if depth > 1:
        both, _ = jax.lax.scan(step, both, (jnp.arange(depth - 1), d_lower))
    d_block = jax.tree.map(lambda leaf: leaf[0], d_last)
    return _call_jvp(weights, shared, fixed, depth - 1, both, d_block, d_shared, i)


def _call_jvp(
    weights: PyTree,
    shared: PyTree,
    fixed: PyTree,
    n: Index,
    x_and_tangent: tuple[Array, Array],
    d_block: PyTree,
    d_shared: PyTree,
    i: Index | None = None,
) -> tuple[Array, Array]:
    """The n-th block's output, whole or of token `i`, and its derivative."""
    x, d_x = x_and_tangent
    block_fixed = _fixed_layer(fixed, n)
    return jax.jvp(
        lambda weights, shared, x: _call(weights, shared, block_fixed, x, i),
        (_layer(weights, n), shared, x),
        (d_block, d_shared, d_x),
    )


def _call(
    weights: PyTree, shared: PyTree, fixed: PyTree, x: Array, i: Index | None = None
) -> Array:
    """A block's output; with `i` of this token alone."""
    block, inputs = eqx.combine((weights, shared), fixed)
    return block(x, *inputs) if i is None else block_at(block, x, i, *inputs)


def _fixed_layer(fixed: tuple[PyTree, PyTree], n: Index) -> tuple[PyTree, PyTree]:
    """What is fixed of the n-th block, and of what all share."""
    block, shared = fixed
    return _layer(block, n), shared


def _layer(tree: PyTree, n: Index) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[n], tree)
