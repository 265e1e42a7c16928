"""What of a transformer's tokens becomes the feature."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from .pooled_stack import stack_at
from .stack import Index


Layers = Callable[[Array], Array]  # a stack, or what a user has put in its place


def class_token(stack: Layers, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
    """The first token of the stack's output."""
    return stack_at(stack, x, 0)


def mean_patch(stack: Layers, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
    """The mean of all tokens of the stack's output but the first: OpenCLIP's pooling "avg"."""
    return stack(x)[1:].mean(0)


def highest_id(tokens: Integer[Array, " tokens"]) -> Index:
    """Where the highest id stands first, the end of text: OpenCLIP's pooling "argmax"."""
    return jnp.argmax(tokens)


def last(tokens: Integer[Array, " tokens"]) -> Index:
    """The last place."""
    return len(tokens) - 1


IMAGE_POOLINGS: dict[str, Callable[[Layers, Array], Array]] = {
    "class_token": class_token,
    "mean_patch": mean_patch,
}
TEXT_POOLINGS: dict[str, Callable[[Array], Index]] = {"highest_id": highest_id, "last": last}
