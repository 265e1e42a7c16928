"""The contrastive loss, a pure function of arrays."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ._types import Input, Number, typed


@typed
def clip_loss(
    image_features: Input, text_features: Input, logit_scale: Input | Number
) -> Float[Array, ""]:
    """The symmetric cross-entropy of matching each image with its text, and each text its image.

    **Arguments:**

    - `image_features`, `text_features`: unit vectors (batch, embed); row i of one belongs with
      row i of the other.
    - `logit_scale`: what multiplies the cosines, `jnp.exp(model.logit_scale)`: not the log.

    **Returns:** a scalar, in at least float32; `log(batch)` at chance. Raises `ValueError` where
    the two are not arrays of one shape. Source: Radford et al. 2021 (arXiv:2103.00020), figure 3;
    OpenCLIP's `ClipLoss`.
    """
    shapes = jnp.shape(image_features), jnp.shape(text_features)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or jnp.shape(logit_scale) != ():
        raise ValueError(
            "Expected image features and text features of one shape, (batch, embed), and a scalar "
            f"`logit_scale`; got {shapes[0]}, {shapes[1]} and {jnp.shape(logit_scale)}."
        )
    image_features, text_features = jnp.asarray(image_features), jnp.asarray(text_features)
    dtype = jnp.promote_types(image_features.dtype, jnp.float32)
    cosines = jnp.matmul(image_features, text_features.T, preferred_element_type=dtype)
    logits = logit_scale * cosines.astype(dtype)
    labels = jnp.arange(logits.shape[0])
    nll = optax.softmax_cross_entropy_with_integer_labels
    return (jnp.mean(nll(logits, labels)) + jnp.mean(nll(logits.T, labels))) / 2
