"""What of a transformer's tokens becomes the feature: parts of a tower without arrays."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Integer

from .pooled_stack import stack_at
from .stack import Index


Layers = Callable[[Array], Array]  # a stack, or what a user has put in its place


class ClassToken(eqx.Module):
    """The first token of the stack's output: OpenCLIP's pooling "tok"."""

    def __call__(self, stack: Layers, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
        return stack_at(stack, x, 0)


class MeanPatch(eqx.Module):
    """The mean of all tokens of the stack's output but the first: OpenCLIP's pooling "avg"."""

    def __call__(self, stack: Layers, x: Float[Array, "tokens width"]) -> Float[Array, " width"]:
        return stack(x)[1:].mean(0)


class TokenPooling(eqx.Module):
    """One token of the stack's output, which the ids choose."""

    def index(self, ids: Integer[Array, " tokens"]) -> Index:
        """Where the token stands."""
        raise NotImplementedError

    def __call__(
        self,
        stack: Layers,
        x: Float[Array, "tokens width"],
        ids: Integer[Array, " tokens"],
    ) -> Float[Array, " width"]:
        return stack_at(stack, x, self.index(ids))


class HighestId(TokenPooling):
    """The token where the highest id stands first, the end of text: OpenCLIP's pooling "argmax".

    The feature of tokens that see only those before them depends on no later one.
    """

    def index(self, ids: Integer[Array, " tokens"]) -> Index:
        return jnp.argmax(ids)

    def used_lengths(self, ids: Int[np.ndarray, "*batch tokens"]) -> Int[np.ndarray, "*batch"]:
        """How many tokens of each row there are up to the one that is read."""
        return np.argmax(ids, axis=-1) + 1


class LastToken(TokenPooling):
    """The last token: OpenCLIP's pooling "last"."""

    def index(self, ids: Integer[Array, " tokens"]) -> Index:
        return len(ids) - 1


class FirstId(TokenPooling):
    """The token where the id `eos_id` stands first, or the first token where it does not stand at
    all: OpenCLIP's pooling "eos".

    The feature of tokens that see only those before them depends on no later one.
    """

    eos_id: int = eqx.field(static=True)

    def index(self, ids: Integer[Array, " tokens"]) -> Index:
        return jnp.argmax(ids == self.eos_id)

    def used_lengths(self, ids: Int[np.ndarray, "*batch tokens"]) -> Int[np.ndarray, "*batch"]:
        """How many tokens of each row there are up to the one that is read."""
        return np.argmax(ids == self.eos_id, axis=-1) + 1


IMAGE_POOLINGS = {"class_token": ClassToken, "mean_patch": MeanPatch}
# Made of the configuration's `eos_id`.
TEXT_POOLINGS: dict[str, Callable[[Any], Any]] = {
    "highest_id": lambda eos_id: HighestId(),
    "last": lambda eos_id: LastToken(),
    "first_id": FirstId,
}
