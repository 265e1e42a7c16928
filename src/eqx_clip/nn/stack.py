"""A stack of equal blocks, compiled as one."""

import operator
from collections.abc import Callable
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from .batch_norm import buffers
from .mesh_axes import automatic
from .module import Module


Index = int | Int[Array, ""]
Policy = Callable[..., bool] | None  # of `jax.checkpoint`; None keeps the inputs only


BlockT = TypeVar("BlockT", bound=Callable[..., Array])


class Stack(Module, Generic[BlockT]):
    """Equal blocks as one block whose arrays have a leading depth axis, applied by `lax.scan`.

    Compile time and program size do not grow with depth. `stack[3]` is the fourth block,
    `stack[-6:]` a stack of the last six, `len(stack)` the depth. What else the stack is called with
    is shared: each block is called with the same, such as a table of positions. A block may say by
    an attribute `policy` what is kept of it for the gradient; otherwise all is.
    """

    block: BlockT

    def __init__(self, make: Callable[[PRNGKeyArray], BlockT], depth: int, *, key: PRNGKeyArray):
        self.block = eqx.filter_vmap(make)(jr.split(key, depth))

    def __len__(self) -> int:
        return depth_of(self.block)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = jax.tree.map(lambda leaf: leaf[index], self.block)
            return eqx.tree_at(lambda stack: stack.block, self, part)
        i, depth = operator.index(index), len(self)
        if not -depth <= i < depth:
            raise IndexError(f"A stack of {depth} blocks has no block {i}.")
        return jax.tree.map(lambda leaf: leaf[i], self.block)

    @automatic
    def __call__(self, x: Float[Array, "..."], *shared: PyTree) -> Float[Array, "..."]:
        """The last block's output."""
        return _scan(self.block, x, shared, keep_all=False)[0]

    @automatic
    def intermediates(self, x: Float[Array, "..."], *shared: PyTree) -> Float[Array, "depth ..."]:
        """Every block's output."""
        return _scan(self.block, x, shared, keep_all=True)[1]


# Compiled here, since an eager `lax.scan` has a new body at each call and compiles anew each time.
@eqx.filter_jit
def _scan(
    block: PyTree, x: Array, shared: tuple[PyTree, ...], *, keep_all: bool
) -> tuple[Array, PyTree]:
    def call(block, x, *shared):
        return block(x, *shared)

    if hasattr(block, "policy"):
        call = jax.checkpoint(call, policy=block.policy, prevent_cse=False)

    def step(x, block):
        y = call(block, x, *shared)
        return y, y if keep_all else None

    return jax.lax.scan(step, widened(x, block), block)


def widened(x: Array, block: PyTree) -> Array:
    # A scan's carry keeps its type, and weights may be of several.
    parameters = eqx.filter(block, jax.tree.map(operator.not_, buffers(block)))
    leaves = jax.tree.leaves(eqx.filter(parameters, eqx.is_inexact_array))
    return x.astype(jnp.result_type(x, *leaves))


def depth_of(block: PyTree) -> int:
    return jax.tree.leaves(block)[0].shape[0]
