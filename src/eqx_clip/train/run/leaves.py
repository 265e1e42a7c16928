"""A tree's arrays by name: what is checked and described around a checkpoint."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree, UInt32

from ..._types import AnyArray


Named = dict[str, Any]  # of arrays or of their `jax.ShapeDtypeStruct`s


def named_leaves(tree: PyTree) -> Named:
    """The leaves by their dotted paths, such as `opt_state.0.mu.image.proj`, in the tree's order.

    Raises `ValueError` for a leaf that is neither an array nor a `jax.ShapeDtypeStruct`.
    """
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not isinstance(leaf, AnyArray | jax.ShapeDtypeStruct):
            raise ValueError(
                f"A checkpoint holds arrays; `{name}` is {type(leaf).__name__} {leaf!r}. Keep "
                "facts in `config`, and partition a module that has other leaves: `eqx.filter`."
            )
        named[name] = leaf
    return named


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key, or the shape of one."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def described(leaves: Named) -> dict[str, str]:
    """Each leaf's dtype and shape, such as `float32 (3, 4)`."""
    return {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in leaves.items()}


def checksums(arrays: Mapping[str, AnyArray]) -> dict[str, int]:
    """A number of 32 bits for each array, the same however it is sharded.

    It is the sum of the array's words times odd numbers of their positions, modulo 2**32, so that
    any change of one word changes it, and words that change places nearly always do. Computed where
    the arrays are; every process must call.
    """
    return {name: int(value) for name, value in jax.device_get(_sums(dict(arrays))).items()}


@jax.jit
def _sums(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: _sum(array) for name, array in arrays.items()}


def _sum(array: Array) -> UInt32[Array, ""]:
    words = _words(array)
    position = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position = position * jnp.uint32(size % 2**32) + place
    return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)


def _words(array: Array) -> UInt32[Array, "..."]:
    """The bits of an array's elements; 64 of them are two words along a new last axis."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = 8 * min(array.dtype.itemsize, np.dtype(np.uint32).itemsize)
    return jax.lax.bitcast_convert_type(array, f"uint{bits}").astype(jnp.uint32)


def written(leaves: Named) -> Named:
    """What Orbax can write: keys as their words, and nothing that is empty."""
    return {
        name: jax.random.key_data(leaf) if is_key(leaf) else leaf
        for name, leaf in leaves.items()
        if leaf.size
    }


def skeleton(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, dtype and sharding of what was written of a leaf."""
    bare = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if is_key(leaf):
        bare = jax.eval_shape(jax.random.key_data, bare)
    return jax.ShapeDtypeStruct(bare.shape, bare.dtype, sharding=_sharding(name, leaf))


def _sharding(name: str, leaf: Any) -> Sharding:
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None:
        return sharding
    if jax.process_count() > 1:
        raise ValueError(
            f"`{name}` of `like` has no sharding, and there are {jax.process_count()} processes. "
            "Give arrays, or `jax.ShapeDtypeStruct`s with `sharding=`."
        )
    return SingleDeviceSharding(jax.devices()[0])


def restored(leaf: Any, array: Array | None, skeleton: jax.ShapeDtypeStruct) -> Array:
    if array is None:
        array = jnp.zeros(skeleton.shape, skeleton.dtype, device=skeleton.sharding)
    if not is_key(leaf):
        return array
    return jax.random.wrap_key_data(array, impl=_implementation(leaf))


def _implementation(leaf: Any) -> Any:
    """Which generator a key is of; JAX tells it of arrays only, so one is traced."""
    found = []
    jax.eval_shape(
        lambda key: found.append(jax.random.key_impl(key)),
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
    )
    return found[0]
