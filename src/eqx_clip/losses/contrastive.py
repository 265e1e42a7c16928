"""The contrastive losses, pure functions of arrays, on one device or over the axes of a mesh."""

from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .._checks import short_repr
from .._types import Input, Number, at_least_float32, typed
from ..nn.mesh_axes import automatic
from .ring import AxisName, ring_clip_loss, ring_siglip_loss, varying


Method = Literal["ring", "gather"]
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Any  # a `ValueError` speaks first


@typed
@automatic
def clip_loss(
    image_features: Input,
    text_features: Input,
    logit_scale: Input | Number,
    *,
    axis_name: AxisName | None = None,
    method: MethodName = "ring",
) -> Float[Array, ""]:
    """The symmetric cross-entropy of matching each image with its text, and each text its image.

    **Arguments:**

    - `image_features`, `text_features`: unit vectors (batch, embed); row i of one belongs with
      row i of the other. Inside `jax.shard_map` this device's rows of the global batch.
    - `logit_scale`: what multiplies the cosines, `model.scale`: not the log.
    - `axis_name`: the mesh axis, or axes, over which the batch is sharded. Every image is compared
      with the texts of all devices. None: the batch is whole.
    - `method`: "ring" passes the texts from device to device and holds no matrix of local by
      global size, forward or backward. "gather" collects all features on every device: the plain
      formula, to compare with. They agree to rounding.

    **Returns:** a scalar, in at least float32, the same on every device: the loss of the global
    batch, `log(batch)` at chance. Take its gradient outside of `jax.shard_map`, where it is right
    whether or not `check_vma` is set.

    Raises `ValueError` where features are not of one shape, and for an unknown method. Source:
    Radford et al. 2021 (arXiv:2103.00020), figure 3; OpenCLIP's `ClipLoss`.
    """
    image, text, scale = _checked(image_features, text_features, logit_scale, "logit_scale")
    _check_method(method)
    if axis_name is None:
        return _cross_entropy(image, text, scale)
    if method == "ring":
        return jax.lax.pmean(
            ring_clip_loss(axis_name, image, text, varying(scale, axis_name)), axis_name
        )
    images, texts = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (image, text))
    labels = jax.lax.axis_index(axis_name) * len(image) + jnp.arange(len(image))
    logits = scale * _cosines(image, texts), scale * _cosines(text, images)
    return jax.lax.pmean(sum(_mean_nll(x, labels) for x in logits) / 2, axis_name)


@typed
@automatic
def siglip_loss(
    image_features: Input,
    text_features: Input,
    logit_scale: Input | Number,
    logit_bias: Input | Number,
    *,
    axis_name: AxisName | None = None,
    method: MethodName = "ring",
) -> Float[Array, ""]:
    """The sigmoid loss: each pair of an image and a text is called matching or not, by itself.

    The sum over all pairs of `softplus(-sign * (logit_scale * cosine + logit_bias))`, where sign
    is 1 for the pairs that belong together and -1 for all others, divided by the global batch.

    **Arguments:** as for `clip_loss`; `logit_bias` is added to the logits, -10 at the start in the
    paper. **Returns:** as for `clip_loss`.

    Source: Zhai et al. 2023 (arXiv:2303.15343), algorithm 1; OpenCLIP's `SigLipLoss`.
    """
    image, text, scale = _checked(image_features, text_features, logit_scale, "logit_scale")
    *_, bias = _checked(image_features, text_features, logit_bias, "logit_bias")
    _check_method(method)
    if axis_name is None:
        return _sigmoid(image, text, scale, bias, 0)
    if method == "ring":
        scale, bias = varying(scale, axis_name), varying(bias, axis_name)
        return jax.lax.pmean(ring_siglip_loss(axis_name, image, text, scale, bias), axis_name)
    texts = jax.lax.all_gather(text, axis_name, tiled=True)
    first = jax.lax.axis_index(axis_name) * len(image)
    return jax.lax.pmean(_sigmoid(image, texts, scale, bias, first), axis_name)


def _cross_entropy(image: Array, text: Array, scale: Array) -> Array:
    logits, labels = scale * _cosines(image, text), jnp.arange(len(image))
    return (_mean_nll(logits, labels) + _mean_nll(logits.T, labels)) / 2


def _mean_nll(logits: Array, labels: Array) -> Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _sigmoid(image: Array, text: Array, scale: Array, bias: Array, first: Array | int) -> Array:
    logits = scale * _cosines(image, text) + bias
    belonging = jnp.arange(len(text))[None] == first + jnp.arange(len(image))[:, None]
    return jnp.sum(jax.nn.softplus(jnp.where(belonging, -logits, logits))) / len(image)


def _cosines(image: Array, text: Array) -> Array:
    dtype = at_least_float32(image.dtype)
    return jnp.matmul(image, text.T, preferred_element_type=dtype)


def _checked(
    image_features: Input, text_features: Input, scalar: Input | Number, name: str
) -> tuple[Array, Array, Array]:
    shapes = jnp.shape(image_features), jnp.shape(text_features)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or jnp.shape(scalar) != ():
        raise ValueError(
            "Expected image features and text features of one shape, (batch, embed), and a scalar "
            f"`{name}`; got {shapes[0]}, {shapes[1]} and {jnp.shape(scalar)}."
        )
    image, text = jnp.asarray(image_features), jnp.asarray(text_features)
    dtype = at_least_float32(image.dtype, text.dtype)
    return image, text, jnp.asarray(scalar).astype(dtype)


def _check_method(method: Any) -> None:
    if method not in ("ring", "gather"):
        raise ValueError(f"`method` must be 'ring' or 'gather'; got {short_repr(method)}.")
