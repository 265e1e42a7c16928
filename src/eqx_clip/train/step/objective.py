"""The losses by name, and what they ask of a model and a batch."""

from ..._clip import CLIP
from ..._types import Count


def check_name(loss: str) -> None:
    """A `ValueError` for what is neither the softmax nor the sigmoid loss."""
    if loss not in ("clip", "siglip"):
        raise ValueError(f"`loss` must be 'clip' or 'siglip'; got {loss!r}.")


def check_loss(loss: str, model: CLIP) -> None:
    """A `ValueError` for a loss that is not known, or not of such a model."""
    check_name(loss)
    if loss == "siglip" and model.logit_bias is None:
        raise ValueError(
            "The sigmoid loss needs a model with a bias: "
            "`create(..., init_logit_bias=-10, init_logit_scale=math.log(10))`."
        )


def check_negatives(loss: str, batch_size: Count) -> None:
    """A `ValueError` for a batch in which the softmax has nothing to tell a pair from."""
    if loss == "clip" and batch_size == 1:
        raise ValueError(
            "The softmax loss of a batch of one pair is always 0: a caption is told from the "
            "others of its batch. Take a global batch of at least 2, or the sigmoid loss, 'siglip'."
        )
