"""Models from OpenCLIP's state dicts and back, by the tables of their towers' families."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import DTypeLike

from .._clip import CLIP, CLIPConfig
from ..zoo.families import FAMILIES, family_of
from .format import OPEN_CLIP, TRANSFORMERS, Format, form_of
from .rows import state_dict
from .rows.plain import Edits
from .rows.state_dict import MisfitError, Placement, fill, tensors_of


if TYPE_CHECKING:
    Model = CLIP
else:
    Model = Any  # a `ValueError` speaks first


# Of batch normalisation, as PyTorch calls its buffers.
_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
_MISFIT = "Weights and configuration do not belong together."


def check_model(model: Any) -> None:
    if not isinstance(model, CLIP):
        raise ValueError(
            f"Expected an eqx_clip.CLIP; got {type(model).__name__}. "
            "`eqx.tree_serialise_leaves(path, module)` writes any module."
        )


def to_state_dict(model: Model) -> dict[str, np.ndarray]:
    """`model` as OpenCLIP's state dict: NumPy arrays by OpenCLIP's names, dtypes kept.

    The arrays may share memory with the model's; do not write into them. Raises `ValueError` for
    what is no `CLIP`, and for towers that OpenCLIP does not know. Inverse of `from_state_dict`.
    """
    check_model(model)
    return tensors_of(model, OPEN_CLIP.table(model))


def skeleton(config: CLIPConfig) -> CLIP:
    """The model of `jax.ShapeDtypeStruct`s."""
    return eqx.filter_eval_shape(config.build, key=jax.random.key(0))


def filled(
    config: CLIPConfig,
    tensors: Any,
    dtype: DTypeLike | None = None,
    edits: Edits | None = None,
    device: Placement | None = None,
    form: Format = OPEN_CLIP,
) -> CLIP:
    """The model of `config` with the weights of a state dict in a format.

    `edits`: what is done to small tensors on the way, by name. Raises `ValueError` for tensors that
    do not fit, with the family that they look like.
    """
    model = skeleton(config)
    with _telling_origins(model, form):
        return fill(model, form.table(model), form.plain(tensors, edits or {}), dtype, device)


def check(config: CLIPConfig, tensors: Any, edits: Edits, form: Format) -> None:
    """`ValueError` where `filled` would have one for names or shapes; no large tensor is read."""
    model = skeleton(config)
    with _telling_origins(model, form):
        state_dict.check(model, form.table(model), form.plain(tensors, edits))


@contextmanager
def _telling_origins(model: CLIP, form: Format) -> Iterator[None]:
    """Whose tensors they look like is said of those that do not fit."""
    try:
        yield
    except MisfitError as error:
        origin = _origin(model, error) if form is OPEN_CLIP else _MISFIT
        raise ValueError(f"{error} {origin}") from None


def _origin(model: CLIP, error: MisfitError) -> str:
    """Whose tensors these look like, by their names, if not of such a model's."""
    names = error.names
    if form_of(names) is TRANSFORMERS:
        return (
            "These names are those of Hugging Face transformers: `eqx_clip.load` reads its folders "
            "and repositories."
        )
    if error.missing and {name.rpartition(".")[2] for name in error.missing} <= _STATISTICS:
        return (
            "These are statistics of batch normalisation, without which the model would compute "
            "something else: write the whole `model.state_dict()`, buffers included."
        )
    expected = [family_of(tower) for tower in (model.image, model.text)]
    for family in FAMILIES:
        if family.open_clip.landmark in names and family not in expected:
            image = expected[0]
            return (
                f"They look like a {family.name}'s; this configuration is of a {image.name}. "
                f"{_MISFIT}"
            )
    return _MISFIT
