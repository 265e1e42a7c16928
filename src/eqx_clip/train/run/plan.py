"""What a run would take, from shapes alone."""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh

from ..._clip import CLIP
from ..._types import Count
from ...sharding import rows, shardings
from ..step.flops import forward_flops
from ..step.state import TrainState
from ..step.step import TrainStep


_GIB = 2**30


def plan(
    model: CLIP,
    make_state: Callable[[CLIP], TrainState],
    step: TrainStep,
    mesh: Mesh,
    *,
    batch_size: Count,
    total_steps: Count,
) -> dict[str, str]:
    """Parameters, FLOPs, memory a device, steps and mesh, in words. The step is compiled, not run.

    `model` may be a skeleton, of `jax.ShapeDtypeStruct`s. `make_state` is `init_state` with the
    run's options and without a mesh; `batch_size` is global. Memory is what XLA reports for the
    compiled step.
    """
    pixels = (3, model.preprocess.height, model.preprocess.width)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, *pixels), np.uint8, sharding=rows(mesh)),
        "tokens": jax.ShapeDtypeStruct(
            (batch_size, model.tokenizer.context_length), np.int32, sharding=rows(mesh)
        ),
    }
    state = eqx.filter_eval_shape(make_state, model)
    state = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state,
        shardings(state, mesh),
    )
    memory = step.lower(state, batch).compile().memory_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    return {
        "parameters": f"{parameters:,}",
        "mesh": ", ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "steps": f"{total_steps:,} of {batch_size:,} images and texts",
        "FLOPs a step": f"{3 * batch_size * forward_flops(model):.3g}, three forward passes",
        "memory a device": f"{memory.argument_size_in_bytes / _GIB:.2f} GiB of state and batch, "
        f"and {memory.temp_size_in_bytes / _GIB:.2f} GiB while a step is computed",
    }
