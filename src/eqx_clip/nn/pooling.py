"""What of a transformer's tokens becomes the feature: parts of a tower without arrays."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Integer

from .pooled_stack import stack_at


Layers = Callable[[Array], Array]  # a stack, or what a user has put in its place


class ClassToken(eqx.Module):
    """The first token of the stack's output: OpenCLIP's pooling "tok"."""

    def __call__(self, stack: Layers, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
        return stack_at(stack, x, 0)


class MeanPatch(eqx.Module):
    """The mean of all tokens of the stack's output but the first: OpenCLIP's pooling "avg"."""

    def __call__(self, stack: Layers, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
        return stack(x)[1:].mean(0)


class HighestId(eqx.Module):
    """The stack's output where the highest id stands first, the end of text: OpenCLIP's "argmax".

    The feature of tokens that see only those before them depends on no later one.
    """

    def __call__(
        self,
        stack: Layers,
        x: Float[Array, "tokens width"],
        ids: Integer[Array, " tokens"],
    ) -> Float[Array, " width"]:
        return stack_at(stack, x, jnp.argmax(ids))

    def used_lengths(self, ids: Int[np.ndarray, "*batch tokens"]) -> Int[np.ndarray, "*batch"]:
        """How many tokens of each row there are up to the one that is read."""
        return np.argmax(ids, axis=-1) + 1


class LastToken(eqx.Module):
    """The last token of the stack's output: OpenCLIP's pooling "last"."""

    def __call__(
        self,
        stack: Layers,
        x: Float[Array, "tokens width"],
        ids: Integer[Array, " tokens"],
    ) -> Float[Array, " width"]:
        return stack_at(stack, x, len(ids) - 1)


IMAGE_POOLINGS = {"class_token": ClassToken, "mean_patch": MeanPatch}
TEXT_POOLINGS = {"highest_id": HighestId, "last": LastToken}
