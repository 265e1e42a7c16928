"""Computation on meshes with Explicit axes, where an array's type says how the array lies."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax import Array
from jax.sharding import AbstractMesh, AxisType, NamedSharding, get_abstract_mesh, reshard
from jax.sharding import PartitionSpec as P


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def automatic(
    function: FunctionT, out_spec: Callable[..., P] = lambda *args, **kwargs: P()
) -> FunctionT:
    """`function`, of whose operations XLA chooses where results lie, on a mesh of any kind.

    An array's type leaves open how its reshapes, gathers and products lie, and JAX refuses to
    guess. So Explicit axes are Auto ones inside of `function`. What it gives lies as `out_spec` of
    its arguments says, by default whole on every device; axes of `jax.vmap` lie as they came.
    On other meshes this is `function` itself.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        context = get_abstract_mesh()
        mesh = next(
            filter(_explicit, (context, *map(_mesh, jax.tree.leaves((args, kwargs))))), None
        )
        if mesh is None:
            return function(*args, **kwargs)

        def on_arrays(arrays: Any) -> Any:
            args, kwargs = eqx.combine(arrays, static)
            return function(*args, **kwargs)

        arrays, static = eqx.partition((args, kwargs), eqx.is_array)
        if mesh == context:  # so that gradients of what lies on no mesh yet lie on this one
            arrays = jax.tree.map(lambda x: reshard(x, P()) if _mesh(x).empty else x, arrays)
        where = NamedSharding(mesh, out_spec(*args, **kwargs))
        return jax.sharding.auto_axes(on_arrays, axes=_explicit(mesh), out_sharding=where)(arrays)

    return call  # pyright: ignore[reportReturnType]


def _mesh(leaf: Any) -> AbstractMesh:
    return jax.typeof(leaf).sharding.mesh if isinstance(leaf, Array) else AbstractMesh((), ())


def _explicit(mesh: AbstractMesh) -> tuple[str, ...]:
    """The names of its Explicit axes."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == AxisType.Explicit)
