"""Sums over all pairs of a global batch, one block of texts at a time, devices in a ring.

Each device keeps its images; the texts travel. A device meets every text once, in blocks of at
most `CHUNK`, and no matrix of local by global size is ever held, neither forward nor backward: of
the forward pass only features and, for softmax, one number a row and one a column are kept, and the
logits are computed again. What travels with a text has met all images when it is home.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree


CHUNK = 512  # texts that a device compares with its images at a time

AxisName = str | tuple[str, ...]
Chunk = tuple[Array, ...]


def varying(x: Array, axis_name: AxisName) -> Array:
    """`x` as a value that may differ between devices; its gradient is summed over them."""
    # A sum with what does differ. `jax.lax.pcast` refuses what differs already, and how to ask
    # for that changes from one release of JAX to the next.
    return x + (0 * jax.lax.axis_index(axis_name)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def ring_clip_loss(
    axis_name: AxisName,
    image: Float[Array, "local embed"],
    text: Float[Array, "local embed"],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """This device's part of the symmetric cross-entropy: its mean over devices is the loss."""
    return _clip_forward(axis_name, image, text, scale)[0]


def _clip_forward(axis_name: AxisName, image: Array, text: Array, scale: Array):
    positive = scale * _own_cosines(image, text, scale)
    nothing = varying(jnp.full(len(image), -jnp.inf, scale.dtype), axis_name)

    def visit(rows: Array, chunk: Chunk) -> tuple[Array, Chunk]:
        text, columns = chunk
        logits = scale * _cosines(image, text, scale)
        rows = jnp.logaddexp(rows, jax.nn.logsumexp(logits, axis=1))
        return rows, (text, jnp.logaddexp(columns, jax.nn.logsumexp(logits, axis=0)))

    rows, (_, columns) = _around(axis_name, visit, nothing, (text, nothing))
    loss = jnp.mean(rows + columns - 2 * positive) / 2
    return loss, (image, text, scale, rows, columns)


def _clip_backward(axis_name: AxisName, kept: Chunk, g: Array) -> Chunk:
    image, text, scale, rows, columns = kept

    def pulls(cosines: Array, columns: Array) -> Array:
        logits = scale * cosines
        return jnp.exp(logits - rows[:, None]) + jnp.exp(logits - columns[None])

    image_grad, text_grad, scale_grad, _ = _pulled(
        axis_name, pulls, 2, image, text, scale, (columns,)
    )
    share = g / (2 * len(image))
    return (
        (share * scale * image_grad).astype(image.dtype),
        (share * scale * text_grad).astype(text.dtype),
        share * scale_grad,
    )


ring_clip_loss.defvjp(_clip_forward, _clip_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def ring_siglip_loss(
    axis_name: AxisName,
    image: Float[Array, "local embed"],
    text: Float[Array, "local embed"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, ""]:
    """This device's part of the sigmoid loss: its mean over devices is the loss."""
    return _siglip_forward(axis_name, image, text, scale, bias)[0]


def _siglip_forward(axis_name: AxisName, image: Array, text: Array, scale: Array, bias: Array):
    def visit(total: Array, chunk: Chunk) -> tuple[Array, Chunk]:
        (text,) = chunk
        logits = scale * _cosines(image, text, scale) + bias
        return total + jnp.sum(jax.nn.softplus(logits)), chunk

    positive = scale * _own_cosines(image, text, scale) + bias
    start = -jnp.sum(positive)  # softplus(-z) of a pair that belongs together: softplus(z) - z
    total, _ = _around(axis_name, visit, start, (text,))
    return total / len(image), (image, text, scale, bias)


def _siglip_backward(axis_name: AxisName, kept: Chunk, g: Array) -> Chunk:
    image, text, scale, bias = kept

    def pulls(cosines: Array) -> Array:
        return jax.nn.sigmoid(scale * cosines + bias)

    image_grad, text_grad, scale_grad, bias_grad = _pulled(
        axis_name, pulls, 1, image, text, scale, ()
    )
    share = g / len(image)
    return (
        (share * scale * image_grad).astype(image.dtype),
        (share * scale * text_grad).astype(text.dtype),
        share * scale_grad,
        share * bias_grad,
    )


ring_siglip_loss.defvjp(_siglip_forward, _siglip_backward)


def _pulled(
    axis_name: AxisName,
    pulls: Callable[..., Array],
    positives: int,
    image: Array,
    text: Array,
    scale: Array,
    of_texts: tuple[Array, ...],
) -> tuple[Array, Array, Array, Array]:
    """Sums of what a loss's logits pull at: of images, texts, the cosines, and of the pulls alone.

    `pulls(cosines, *of_texts)` is the derivative by the logits of a chunk, apart from the pairs
    that belong together, each of which takes `positives` off.
    """

    def visit(sums: Chunk, chunk: Chunk) -> tuple[Chunk, Chunk]:
        image_sum, cosine_sum, pull_sum = sums
        text, text_sum, *of_texts = chunk
        cosines = _cosines(image, text, scale)
        pull = pulls(cosines, *of_texts)
        images, texts = (x.astype(scale.dtype) for x in (image, text))
        sums = image_sum + pull @ texts, cosine_sum + jnp.sum(pull * cosines), pull_sum + pull.sum()
        return sums, (text, text_sum + pull.T @ images, *of_texts)

    image_sum, text_sum = (-positives * x.astype(scale.dtype) for x in (text, image))
    belonging = jnp.sum(_own_cosines(image, text, scale))
    count = varying(jnp.asarray(len(image), scale.dtype), axis_name)
    sums = image_sum, -positives * belonging, -positives * count
    sums, (_, text_sum, *_) = _around(axis_name, visit, sums, (text, text_sum, *of_texts))
    image_sum, cosine_sum, pull_sum = sums
    return image_sum, text_sum, cosine_sum, pull_sum


def _cosines(image: Array, text: Array, scale: Array) -> Array:
    return jnp.matmul(image, text.T, preferred_element_type=scale.dtype)


def _own_cosines(image: Array, text: Array, scale: Array) -> Array:
    """Of the pairs that belong together."""
    # Cast first: a product of half precision would be rounded before it is summed.
    return jnp.sum(image.astype(scale.dtype) * text.astype(scale.dtype), axis=1)


def _around(
    axis_name: AxisName,
    visit: Callable[[Any, Chunk], tuple[Any, Chunk]],
    here: PyTree,
    travelling: Chunk,
) -> tuple[PyTree, Chunk]:
    """`visit(here, chunk)` for every chunk of every device's rows, which then are home again."""
    size = jax.lax.axis_size(axis_name)
    onward = [(i, (i + 1) % size) for i in range(size)]
    chunk = _chunk(len(travelling[0]))
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), travelling)

    def hop(_, state):
        here, chunks = jax.lax.scan(visit, *state)
        return here, jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, onward), chunks)

    here, chunks = jax.lax.fori_loop(0, size, hop, (here, chunks))
    return here, jax.tree.map(lambda x, old: x.reshape(old.shape), chunks, travelling)


def _chunk(rows: int) -> int:
    """The largest divisor up to `CHUNK`; all rows if they have none but small ones."""
    divisor = next(size for size in range(min(rows, CHUNK), 0, -1) if rows % size == 0)
    return divisor if divisor >= CHUNK // 8 else rows
