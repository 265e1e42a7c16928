"""Random values of new parameters: functions of a key and a shape.

Always float32, whatever JAX's default is, so that a seed means the same model in 64-bit mode.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import jax.random as jr
from jax import Array
from jaxtyping import PRNGKeyArray


Initializer = Callable[[PRNGKeyArray, tuple[int, ...]], Array]


def normal(std: float) -> Initializer:
    """A normal distribution around 0."""
    return lambda key, shape: std * jr.normal(key, shape, jnp.float32)


def truncated_normal(std: float) -> Initializer:
    """A normal distribution around 0, cut at two standard deviations.

    Its own standard deviation is 0.88 `std`: timm's `trunc_normal_tf_`.
    """
    return lambda key, shape: std * jr.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


def uniform(bound: float) -> Initializer:
    """Between -`bound` and `bound`."""
    return lambda key, shape: jr.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


def torch_default(inputs: int) -> Initializer:
    """What PyTorch takes for weights and biases of linear layers and convolutions.

    `inputs`: how many numbers each output is a sum over.
    """
    return uniform(1 / math.sqrt(inputs))


def zeros(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(shape, jnp.float32)
