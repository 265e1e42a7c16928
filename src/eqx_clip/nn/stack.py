"""A stack of equal blocks, compiled as one."""

import functools
import operator
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from .mesh_axes import automatic
from .module import Module


Index = int | Int[Array, ""]
Policy = Callable[..., bool] | None  # of `jax.checkpoint`; None keeps the inputs only


class ShapePreserving(Protocol):
    def __call__(self, x: Array, /) -> Array: ...


BlockT = TypeVar("BlockT", bound=ShapePreserving)


class Stack(Module, Generic[BlockT]):
    """Equal blocks as one block whose arrays have a leading depth axis, applied by `lax.scan`.

    Compile time and program size do not grow with depth. `stack[3]` is the fourth block,
    `stack[-6:]` a stack of the last six, `len(stack)` the depth. A block may say by an attribute
    `policy` what is kept of it for the gradient; otherwise all is.
    """

    block: BlockT

    def __init__(self, make: Callable[[PRNGKeyArray], BlockT], depth: int, *, key: PRNGKeyArray):
        self.block = eqx.filter_vmap(make)(jr.split(key, depth))

    def __len__(self) -> int:
        return _depth(self.block)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = jax.tree.map(lambda leaf: leaf[index], self.block)
            return eqx.tree_at(lambda stack: stack.block, self, part)
        i, depth = operator.index(index), len(self)
        if not -depth <= i < depth:
            raise IndexError(f"A stack of {depth} blocks has no block {i}.")
        return jax.tree.map(lambda leaf: leaf[i], self.block)

    @automatic
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The last block's output."""
        return _scan(self.block, x, keep_all=False)[0]

    @automatic
    def intermediates(self, x: Float[Array, "..."]) -> Float[Array, "depth ..."]:
        """Every block's output."""
        return _scan(self.block, x, keep_all=True)[1]


# Compiled here, since an eager `lax.scan` has a new body at each call and compiles anew each time.
@eqx.filter_jit
def _scan(block: PyTree, x: Array, *, keep_all: bool) -> tuple[Array, PyTree]:
    def call(block, x):
        return block(x)

    if hasattr(block, "policy"):
        call = jax.checkpoint(call, policy=block.policy, prevent_cse=False)

    def step(x, block):
        y = call(block, x)
        return y, y if keep_all else None

    return jax.lax.scan(step, _widened(x, block), block)


def stack_at(
    stack: Callable[[Array], Array], x: Float[Array, "tokens width"], i: Index
) -> Float[Array, " width"]:
    """`stack(x)[i]`, the last block computed for that token only, if it has a method `at`."""
    if not isinstance(stack, Stack):  # a user has put another in its place
        return stack(x)[i]
    weights, rest = eqx.partition(stack.block, eqx.is_inexact_array)
    return _at(weights, rest, _widened(x, stack.block), jnp.asarray(i))


def block_at(block: Any, x: Float[Array, "tokens width"], i: Index) -> Float[Array, " width"]:
    """`block(x)[i]`, by its method `at` if it has one."""
    return block.at(x, i) if hasattr(block, "at") else block(x)[i]


@jax.custom_jvp
def _at(weights: PyTree, rest: PyTree, x: Array, i: Int[Array, ""]) -> Array:
    # By index, since a slice of the stack would be a copy of nearly all the weights.
    def step(x, n):
        return _nth(weights, rest, n)(x), None

    depth = _depth(weights)
    x, _ = jax.lax.scan(step, x, jnp.arange(depth - 1))
    return block_at(_nth(weights, rest, depth - 1), x, i)


@_at.defjvp
def _at_jvp(primals, tangents):
    # The weights by index here too; in place of the derivative of an index, which adds to a
    # gradient of the whole stack at each block, the tangents are split, and gradients concatenated.
    weights, rest, x, i = primals
    d_weights, _, d_x, _ = tangents
    depth = _depth(weights)
    leaves, structure = jax.tree.flatten(d_weights)
    parts = [jax.lax.split(leaf, (depth - 1, 1)) for leaf in leaves]
    d_lower, d_last = (jax.tree.unflatten(structure, part) for part in zip(*parts, strict=True))

    # Within what is checkpointed by a block's own policy, weights are not kept but indexed again.
    everything = jax.checkpoint_policies.everything_saveable
    policy = getattr(eqx.combine(weights, rest), "policy", everything)

    @functools.partial(jax.checkpoint, policy=policy, prevent_cse=False)
    def block_jvp(weights, rest, n, x, d_block, d_x):
        return _jvp(lambda block, x: block(x), weights, rest, n, x, d_block, d_x)

    def step(x_and_tangent, n_and_tangent):
        (x, d_x), (n, d_block) = x_and_tangent, n_and_tangent
        return block_jvp(weights, rest, n, x, d_block, d_x), None

    (x, d_x), _ = jax.lax.scan(step, (x, d_x), (jnp.arange(depth - 1), d_lower))
    d_block = jax.tree.map(lambda leaf: leaf[0], d_last)
    return _jvp(lambda block, x: block_at(block, x, i), weights, rest, depth - 1, x, d_block, d_x)


def _jvp(
    function: Callable[[PyTree, Array], Array],
    weights: PyTree,
    rest: PyTree,
    n: Index,
    x: Array,
    d_block: PyTree,
    d_x: Array,
) -> tuple[Array, Array]:
    """`function` of the n-th block and `x`, and its derivative."""
    weights, rest = _layer((weights, rest), n)
    return jax.jvp(lambda w, x: function(eqx.combine(w, rest), x), (weights, x), (d_block, d_x))


def _nth(weights: PyTree, rest: PyTree, n: Index) -> PyTree:
    return _layer(eqx.combine(weights, rest), n)


def _layer(tree: PyTree, n: Index) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[n], tree)


def _widened(x: Array, block: PyTree) -> Array:
    # A scan's carry keeps its type, and weights may be of several.
    return x.astype(jnp.result_type(x, *jax.tree.leaves(block)))


def _depth(block: PyTree) -> int:
    return jax.tree.leaves(block)[0].shape[0]
