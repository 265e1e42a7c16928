"""Two linear layers around an activation."""

import equinox as eqx
import jax.random as jr
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .._types import Activation
from .activations import ACTIVATIONS
from .initializers import Initializer
from .linear import linear, over_last


class MLP(eqx.Module):
    """Two linear layers around an activation, along the last axis.

    What is not said of their initialisation is PyTorch's.
    """

    up: eqx.nn.Linear
    down: eqx.nn.Linear
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        *,
        activation: Activation,
        use_final_bias: bool = True,
        up_init: Initializer | None = None,
        down_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        up_key, down_key = jr.split(key)
        self.up = linear(width, hidden, weight_init=up_init, bias_init=bias_init, key=up_key)
        self.down = linear(
            hidden,
            out,
            use_bias=use_final_bias,
            weight_init=down_init,
            bias_init=bias_init,
            key=down_key,
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... out"]:
        hidden = ACTIVATIONS[self.activation](over_last(self.up, x))
        return over_last(self.down, hidden)
