"""Learning rates by step, as OpenCLIP sets them.

All begin with a linear warmup, which gives step `i`, counted from 0, the rate
`warmup_init + (learning_rate - warmup_init) * (i + 1) / warmup_steps`; OpenCLIP's `warmup_init` is
0, and one above `learning_rate` is warned of. Each returns an `optax.Schedule`. Source:
`open_clip_train.scheduler`.
"""

import logging

import jax.numpy as jnp
import optax

from ..._checks import as_count, as_natural
from ..._types import Count, Number


logger = logging.getLogger("eqx_clip.train")


def cosine_schedule(
    learning_rate: Number, *, total_steps: Count, warmup_steps: Count = 0, warmup_init: Number = 0.0
) -> optax.Schedule:
    """After the warmup half a cosine wave, down to 0 at `total_steps`.

    Raises `ValueError` for a negative warmup, and for one as long as the training.
    """
    warmup_steps = as_natural("warmup_steps", warmup_steps)
    _check_fits("warmup_steps", warmup_steps, as_count("total_steps", total_steps))
    decay = optax.cosine_decay_schedule(learning_rate, total_steps - warmup_steps)
    return _with_warmup(decay, learning_rate, warmup_steps, warmup_init)


def constant_schedule(
    learning_rate: Number, *, warmup_steps: Count = 0, warmup_init: Number = 0.0
) -> optax.Schedule:
    """After the warmup the same rate for ever. Raises `ValueError` for a negative warmup."""
    warmup_steps = as_natural("warmup_steps", warmup_steps)
    constant = optax.constant_schedule(learning_rate)
    return _with_warmup(constant, learning_rate, warmup_steps, warmup_init)


def cooldown_schedule(
    learning_rate: Number,
    *,
    total_steps: Count,
    cooldown_steps: Count,
    cooldown_power: Number = 1.0,
    cooldown_end: Number = 0.0,
    warmup_steps: Count = 0,
    warmup_init: Number = 0.0,
) -> optax.Schedule:
    """After the warmup the same rate, then `cooldown_steps` down to `cooldown_end`.

    The descent is linear, or a polynomial of degree `cooldown_power`. Raises `ValueError` if
    warmup and cooldown do not fit into the training, or one of them is negative.
    """
    warmup_steps = as_natural("warmup_steps", warmup_steps)
    cooldown_steps = as_natural("cooldown_steps", cooldown_steps)
    total_steps = as_count("total_steps", total_steps)
    _check_fits("warmup_steps + cooldown_steps", warmup_steps + cooldown_steps, total_steps + 1)
    after_warmup = optax.polynomial_schedule(
        learning_rate,
        cooldown_end,
        cooldown_power,
        transition_steps=cooldown_steps,
        transition_begin=total_steps - cooldown_steps - warmup_steps,
    )
    return _with_warmup(after_warmup, learning_rate, warmup_steps, warmup_init)


def _with_warmup(
    schedule: optax.Schedule, learning_rate: Number, steps: Count, init: Number
) -> optax.Schedule:
    if steps > 0:
        if init > learning_rate:
            logger.warning(
                "The warmup falls, from `warmup_init=%g` to the learning rate of %g: give a "
                "smaller `warmup_init`.",
                init,
                learning_rate,
            )
        warmup = optax.linear_schedule(init, learning_rate, steps)
        schedule = optax.join_schedules([lambda step: warmup(step + 1), schedule], [steps])
    # Of integers optax computes in float32, in JAX's 64-bit mode too.
    return lambda step: jnp.asarray(schedule(jnp.asarray(step, float)), float)


def _check_fits(name: str, steps: Count, total_steps: Count) -> None:
    if steps >= total_steps:
        raise ValueError(
            f"`{name}={steps}` must be less than `total_steps={total_steps}`: the rate would "
            "never reach its full height. Shorten the warmup; OpenCLIP's default, 10,000 steps, "
            "is for runs of hundreds of thousands."
        )
