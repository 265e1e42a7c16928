"""One step of training, a pure function of state and batch, on one device or a mesh of many."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import DTypeLike, Float, PyTree

from ..._checks import as_count
from ..._clip import CLIP
from ..._types import Count, Real, Remat
from ...nn.batch_norm import buffers
from ...sharding import Rule, constrain, sent
from .forward import FIELDS, Batch, Features, Forward
from .gradient import Gradient, loss_over, on_mesh
from .objective import Loss, find_objective
from .precision import all_finite, choose
from .state import TrainState


# One tower after the other: both at once, as XLA would, keep half a gigabyte more of
# vit-base-patch32, and take longer.
_ON_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

MAX_LOGIT_SCALE = math.log(100)  # the paper's bound: cosines are multiplied by at most 100

Metrics = dict[str, Float[Array, ""]]
ModelT = TypeVar("ModelT", bound=CLIP)


def make_train_step(
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    loss: Loss = "clip",
    accumulate: Count = 1,
    dtype: DTypeLike | None = None,
    remat: Remat = "none",
    patch_dropout: Real = 0.0,
    ema_decay: Real | None = None,
    trainable: PyTree | None = None,
    rules: Sequence[Rule] = (),
) -> "TrainStep":
    """A compiled function of a state and a batch that gives the next state and metrics.

    The batch holds `"image"`, uint8 pixels (batch, 3, height, width) as `Preprocess.pixels` and
    `Augment.pixels` give them, or floats that are normalised already, and `"tokens"`, integers
    (batch, context). What else it holds is ignored. Metrics, scalars of this batch before the
    update: `"loss"`, `"logit_scale"` (what multiplies the cosines), `"grad_norm"`, and, where the
    loss is scaled, `"loss_scale"`. The log of the scale is kept between 0 and log(100), as OpenCLIP
    does.

    The old state is donated: its memory is used for the new one. Go on with what is returned.

    **Arguments:**

    - `mesh`: from `eqx_clip.sharding.make_mesh`. The batch is global, spread over all its devices;
      state, gradients and updates stay where `init_state(..., mesh)` put them. The result is that
      of one device, to rounding.
    - `loss`: "clip", or "siglip", which needs a model with a `logit_bias`; or an objective of your
      own, as `eqx_clip.train.Objective` describes it.
    - `accumulate`: computes the batch in so many parts, in the memory of one; the loss and its
      gradient are those of the whole batch, whose texts are all compared with all its images.
    - `dtype`: what the towers compute in, such as bfloat16; parameters, optimizer, norms, softmax
      and loss stay as they are. float16 needs `init_state(..., scale_loss=True)`; a step whose
      gradients overflow changes nothing but the scale.
    - `remat`: what a block keeps for the gradient, the rest being computed again: "none" what the
      block itself chooses (a transformer's the outputs of its linear layers, ConvNeXt's all),
      "dots" the outputs of linear layers, "full" the input only.
    - `patch_dropout`: leaves out this share of each image's patches, other ones at each step; needs
      `init_state(..., key=)`.
    - `ema_decay`: moves `state.ema` to `decay * ema + (1 - decay) * model`; needs
      `init_state(..., ema=True)`.
    - `trainable`: which parameters learn, from `train.trainable`; the others keep their values, and
      count in no norm.
    - `rules`: as given to `init_state`.

    Raises `ValueError` at once for arguments out of range, and at the first call for a batch that
    the mesh and `accumulate` do not divide, one that lacks images or tokens, one of a single pair
    for the "clip" loss, a state that lacks what is needed, and a `trainable` of another model.
    """
    objective = find_objective(loss)
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ValueError(f"`ema_decay` must be at least 0 and less than 1; got {ema_decay!r}.")
    if not 0 <= patch_dropout < 1:
        raise ValueError(
            f"`patch_dropout` must be at least 0 and less than 1; got {patch_dropout!r}."
        )
    forward = Forward(mesh, rules, dtype, remat, patch_dropout, trainable)
    scaled = dtype is not None and jnp.dtype(dtype) == jnp.float16
    devices = jax.devices() if mesh is None else mesh.devices.flat
    if scaled and devices[0].platform == "tpu":
        raise ValueError("TPUs do not compute in float16: take bfloat16.")
    gradient = Gradient(forward, loss_over(mesh, objective), as_count("accumulate", accumulate))

    def keep_in_place(tree):
        return tree if mesh is None else constrain(tree, mesh, rules)

    options = _compiler_options(devices[0].platform)

    # Equinox hands what else it is given on to `jax.jit`, which its overloads don't say.
    @eqx.filter_jit(  # pyright: ignore[reportCallIssue]
        donate="all-except-first", compiler_options=options
    )
    def step(batch: Batch, state: TrainState[ModelT]) -> tuple[TrainState[ModelT], Metrics]:
        _check_state(state, scaled, patch_dropout, ema_decay)
        objective.check(state.model, len(batch["tokens"]))
        value, grads = gradient(state, batch, keep_in_place)
        params: Any = eqx.filter(state.model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # optax promotes its counts
            updates, opt_state = optimizer.update(cast(Any, grads), state.opt_state, params)
        updates = _of_parameters(updates)
        if trainable is not None:  # weight decay moves what has no gradient
            mask = eqx.filter(trainable, jax.tree.map(eqx.is_inexact_array, state.model))
            updates = jax.tree.map(lambda u, learns: u * learns.astype(u.dtype), updates, mask)
        model = _clamp(eqx.apply_updates(state.model, updates))
        metrics = {
            "loss": value,
            "logit_scale": state.model.scale,
            "grad_norm": optax.tree.norm(grads),
        }
        ema, loss_scale = state.ema, state.loss_scale
        if ema is not None and ema_decay is not None:
            ema = _moved(ema, model, ema_decay)
        if loss_scale is not None:
            finite = all_finite(grads)
            model = choose(finite, model, state.model)
            opt_state = choose(finite, opt_state, state.opt_state)
            ema = choose(finite, ema, state.ema)
            metrics["loss_scale"] = loss_scale.scale
            loss_scale = loss_scale.after(finite)
        state = TrainState(model, opt_state, state.step + 1, ema, state.key, loss_scale)
        return keep_in_place(state), metrics

    return TrainStep(step, options, mesh, objective.fields)


@functools.cache
def _compiler_options(platform: str) -> dict[str, Any] | None:
    """XLA's for a step on such devices, where the installed one knows them."""
    if platform != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_ON_CPU)()
    except jax.errors.JaxRuntimeError:
        return None
    return _ON_CPU


class TrainStep(Generic[ModelT]):
    """What `make_train_step` gives: `step(state, batch)`."""

    def __init__(
        self,
        step: Any,
        compiler_options: dict[str, Any] | None,
        mesh: Mesh | None,
        fields: tuple[str, ...],
    ):
        self._step, self._options, self._mesh = step, compiler_options, mesh
        self._fields = fields
        self._compiled_shapes: set[tuple[tuple[int, ...], ...]] = set()

    def __call__(
        self, state: TrainState[ModelT], batch: Batch
    ) -> tuple[TrainState[ModelT], Metrics]:
        used = _used(batch, self._fields)
        result = self._step(sent(used, self._mesh), state)
        self._compiled_shapes.add(_shapes(used))
        return result

    def compiles(self, batch: Batch) -> bool:
        """Whether the next step would be compiled first, since no batch had these shapes yet."""
        return _shapes(_used(batch, self._fields)) not in self._compiled_shapes

    def lower(self, state: TrainState, batch: Mapping[str, Any]) -> Any:
        """The program for arrays, or `jax.ShapeDtypeStruct`s, like these, as `jax.stages.Lowered`.

        `lower(state, batch).compile()` gives memory and cost without taking a step.
        """
        # `eqx.filter_jit` lowers arrays only.
        state, fixed = eqx.partition(state, _has_shape)

        @functools.partial(jax.jit, donate_argnums=0, compiler_options=self._options)
        def step(state, batch):
            return eqx.filter(
                self._step.__wrapped__(batch, eqx.combine(state, fixed)), eqx.is_array
            )

        return step.lower(state, _used(batch, self._fields))


def _shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(np.shape(array) for array in batch.values())


def _has_shape(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def make_eval_step(
    mesh: Mesh | None = None, *, dtype: DTypeLike | None = None, rules: Sequence[Rule] = ()
) -> Callable[[CLIP, Batch], Features]:
    """A compiled function of a model and a batch that gives unit features of images and of texts.

    Batch, `mesh`, `dtype` and `rules` as for `make_train_step`; features are (batch, embed), in at
    least float32, spread over the mesh as the batch is.
    """
    forward = Forward(mesh, rules, dtype)

    @eqx.filter_jit
    def step(batch: Batch, model: CLIP) -> Features:
        return forward(model, on_mesh(batch, mesh), None)

    return lambda model, batch: step(sent(_used(batch, FIELDS), mesh), model)


def _used(batch: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    lacking = [name for name in fields if name not in batch]
    if lacking:
        needed = " and ".join(map(repr, fields))
        raise ValueError(
            f"A batch needs {needed}; this one has {sorted(batch)}, so lacks {lacking}."
        )
    return {name: batch[name] for name in fields}


def _check_state(
    state: TrainState, scaled: bool, patch_dropout: Real, ema_decay: Real | None
) -> None:
    needs = (
        (scaled, state.loss_scale, "float16 computes", "scale_loss=True"),
        (bool(patch_dropout), state.key, "`patch_dropout` draws", "key=jax.random.key(0)"),
        (ema_decay is not None, state.ema, "`ema_decay` moves", "ema=True"),
    )
    for needed, there, use, remedy in needs:
        if needed and there is None:
            raise ValueError(f"{use} with what the state lacks: pass `init_state(..., {remedy})`.")


def _of_parameters(updates: Any) -> Any:
    """The updates with zeros for buffers, which an optimizer may decay or move by noise."""
    return jax.tree.map(
        lambda update, is_buffer: jnp.zeros_like(update) if is_buffer else update,
        updates,
        buffers(updates),
    )


def _moved(average: ModelT, model: ModelT, decay: Real) -> ModelT:
    def moved(old, new, is_buffer):
        moves = eqx.is_inexact_array(old) and not is_buffer
        return decay * old + (1 - decay) * new if moves else new

    return jax.tree.map(moved, average, model, buffers(model))


def _clamp(model: ModelT) -> ModelT:
    scale = jnp.clip(model.logit_scale, 0, MAX_LOGIT_SCALE)
    return eqx.tree_at(lambda model: model.logit_scale, model, scale)
