"""Raw images and texts in, probabilities out."""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import DTypeLike, Float

from .._checks import as_array, as_finite, short_repr
from .._clip import CLIP
from .._types import AnyArray, ImageLike, Real, TextLike
from ..checkpoints.load import create, load
from .embed import embed_images, embed_texts
from .inputs import is_one_image


if TYPE_CHECKING:
    Pretrained = str | bool
else:
    Pretrained = Any  # a `ValueError` speaks first


class CLIPInference:
    """Compares raw images with raw texts.

    ```python
    clip = CLIPInference("vit-base-patch32", "laion2b-s34b-b79k")
    per_image, per_text = clip(Image.open("CLIP.png"), ["a diagram", "a dog", "a cat"])
    ```

    `clip.model` is the `CLIP` model.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] | CLIP,
        pretrained: Pretrained = True,
        *,
        softmax_temp: Real | AnyArray | str | None = "learned",
        dtype: DTypeLike | None = None,
    ):
        """**Arguments:**

        - `model_name`: what `eqx_clip.load` takes: a registered name, a folder, `"hf-hub:..."`; or
          a model, which is taken as it is.
        - `pretrained`: a tag; True for the model's last listed, or the folder's weights; False for
          random weights, with a warning.
        - `softmax_temp`: what multiplies the cosines before the softmax. By default the learned
          temperature, which the checkpoint holds; None for plain cosines.
        - `dtype`: what to store and compute with; by default float32.

        Raises what `eqx_clip.load` raises, and `ValueError` for a temperature that is not finite,
        and for a model together with a tag or a dtype.
        """
        if not isinstance(pretrained, str | bool):
            raise ValueError(
                f"`pretrained` must be a tag, True or False; got {short_repr(pretrained)}."
            )
        is_learned = isinstance(softmax_temp, str) and softmax_temp == "learned"
        self.softmax_temp: float | str | None = "learned"
        if not is_learned:
            given = softmax_temp
            self.softmax_temp = None if given is None else as_finite("softmax_temp", given)
        if isinstance(model_name, CLIP):
            if pretrained is not True or dtype is not None:
                raise ValueError(
                    "A model is taken as it is: leave out `pretrained` and `dtype`; got "
                    f"{pretrained!r} and {dtype!r}. In another dtype it is "
                    "`jax.tree.map(lambda x: x.astype(dtype), model)`."
                )
            self.model = model_name
            return
        storage: DTypeLike = jnp.float32 if dtype is None else dtype
        if pretrained is False:
            warnings.warn(
                f"{model_name!r} has random weights, since `pretrained=False`.", stacklevel=2
            )
            self.model = create(os.fspath(model_name), key=jax.random.key(0), dtype=storage)
        else:
            tag = None if pretrained is True else pretrained
            self.model = load(model_name, tag, dtype=storage)

    def __call__(
        self, image: ImageLike | Sequence[ImageLike], text: TextLike
    ) -> tuple[Float[Array, "images texts"], Float[Array, "texts images"]]:
        """How well images and texts match: for each image over the texts, and the other way round.

        `image`: a PIL image, path, open file, encoded bytes or uint8 array, or several of them.
        `text`: a string or a list. Rows of both results sum to one, or hold cosines if
        `softmax_temp=None`.
        """
        images: Any = [image] if is_one_image(image) else image
        image_features = embed_images(self.model, images, progress=False)
        text_features = embed_texts(self.model, text, progress=False)
        # By NumPy, since JAX would compile anew for each number of images and of texts.
        cosines: Any = image_features @ text_features.T
        if self.softmax_temp is None:
            return as_array(cosines), as_array(cosines.T)
        learned = isinstance(self.softmax_temp, str)
        scale = np.float32(self.model.scale) if learned else self.softmax_temp
        per_image, per_text = (_softmax(scale * x) for x in (cosines, cosines.T))
        return as_array(per_image), as_array(per_text)


def _softmax(logits: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=1, keepdims=True)
