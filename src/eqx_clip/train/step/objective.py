"""Objectives: what a step asks of a model and a batch, and which loss of the features."""

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float

from ..._checks import short_repr
from ..._clip import CLIP
from ..._types import Count
from ...losses.contrastive import clip_loss, siglip_loss
from .forward import FIELDS


@runtime_checkable
class Objective(Protocol):
    """A frozen value that says what is trained.

    - `fields`: what a batch must hold.
    - `check`: `ValueError` for a model, or a number of pairs in a batch, that it is no loss of.
    - `scalars`: what of the model the loss is given beside the features.
    - `loss`: of features of images and of texts, (batch, embed) each, and of the scalars; on a mesh
      of the part on one device, with the mesh's axes as `axis_name`.
    """

    @property
    def fields(self) -> tuple[str, ...]: ...

    def check(self, model: CLIP, batch_size: Count) -> None: ...

    def scalars(self, model: CLIP) -> tuple[Array, ...]: ...

    def loss(self, *features_and_scalars: Array, axis_name: Any = None) -> Float[Array, ""]: ...


@dataclasses.dataclass(frozen=True)
class Softmax:
    """CLIP's: each caption is told from the others of its batch, and each image (`clip_loss`)."""

    fields: tuple[str, ...] = FIELDS

    def check(self, model: CLIP, batch_size: Count) -> None:
        if batch_size == 1:
            raise ValueError(
                "The softmax loss of a batch of one pair is always 0: a caption is told from the "
                "others of its batch. Take a global batch of at least 2, or the sigmoid loss, "
                "'siglip'."
            )

    def scalars(self, model: CLIP) -> tuple[Array, ...]:
        return (model.scale,)

    def loss(self, *features_and_scalars: Array, axis_name: Any = None) -> Float[Array, ""]:
        return clip_loss(*features_and_scalars, axis_name=axis_name)


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """SigLIP's: each pair of an image and a caption by itself (`siglip_loss`)."""

    fields: tuple[str, ...] = FIELDS

    def check(self, model: CLIP, batch_size: Count) -> None:
        if model.logit_bias is None:
            raise ValueError(
                "The sigmoid loss needs a model with a bias: "
                "`create(..., init_logit_bias=-10, init_logit_scale=math.log(10))`."
            )

    def scalars(self, model: CLIP) -> tuple[Array, ...]:
        assert model.logit_bias is not None  # checked
        return model.scale, model.logit_bias

    def loss(self, *features_and_scalars: Array, axis_name: Any = None) -> Float[Array, ""]:
        return siglip_loss(*features_and_scalars, axis_name=axis_name)


# Silent at run time, as in `_types`: a `ValueError` with the remedy is to speak first.
if TYPE_CHECKING:
    Loss = str | Objective
else:
    Loss = Any

OBJECTIVES: dict[str, Objective] = {"clip": Softmax(), "siglip": Sigmoid()}


def find_objective(loss: Any) -> Objective:
    """The objective of a name, or the one that is given. `ValueError` for anything else."""
    if isinstance(loss, str) and loss in OBJECTIVES:
        return OBJECTIVES[loss]
    if isinstance(loss, Objective):
        return loss
    raise ValueError(f"`loss` must be 'clip', 'siglip' or an objective; got {short_repr(loss)}.")
