"""How many floating-point operations a forward pass takes."""

from typing import Any

from ..._clip import CLIP


def forward_flops(model: CLIP) -> int:
    """Of one image and one text: a multiplication and an addition for each product, 2 in all.

    Of matrix products and convolutions only, all blocks whole and texts uncut, as OpenCLIP computes
    them. XLA's own count takes the body of a loop once, however often it runs. A training step
    takes three times as many. `model` may hold `jax.ShapeDtypeStruct`s. Raises `ValueError` for a
    tower without a method `flops`.
    """
    return sum(_flops(tower) for tower in (model.image, model.text))


def _flops(tower: Any) -> int:
    if not hasattr(tower, "flops"):
        raise ValueError(
            f"The operations of a {type(tower).__name__} are not known: give it a method `flops`."
        )
    return tower.flops()
