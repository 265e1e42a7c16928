"""CLIP: any image tower and any text tower that share an embedding."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int, Int32

from ._checks import as_array, as_finite, canonicalize, check_features, check_key
from ._types import AnyArray, Count, Input, Key, Number, Real, Size, TextLike, at_least_float32
from .images.preprocess import Preprocess
from .nn.mesh_axes import automatic
from .nn.module import Module
from .tokenizers.clip import Tokenizer
from .tokenizers.protocol import AnyTokenizer
from .tokenizers.text_lengths import used_lengths


LOGIT_SCALE = math.log(1 / 0.07)  # the paper's initial temperature


@runtime_checkable
class Tower(Protocol):
    """What `CLIP` asks of a tower: one example in, one vector of `embed_dim` numbers out."""

    @property
    def embed_dim(self) -> int: ...

    def __call__(self, example: AnyArray, /) -> Array: ...


@runtime_checkable
class TowerConfig(Protocol):
    """What `CLIPConfig` asks of a tower's configuration, a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def embed_dim(self) -> int: ...

    def with_quick_gelu(self) -> Any:
        """The same tower with the quick GELU, as far as OpenCLIP's option `quick_gelu` reaches."""
        ...

    def build(self, *, key: Any) -> Tower: ...


@runtime_checkable
class ImageTowerConfig(TowerConfig, Protocol):
    """That of an image tower: `image_size` is in pixels, of a square or (height, width)."""

    @property
    def image_size(self) -> Size: ...


@runtime_checkable
class TextTowerConfig(TowerConfig, Protocol):
    """That of a text tower: `context_length` is in tokens."""

    @property
    def context_length(self) -> int: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Everything about a CLIP model but its weights."""

    image: ImageTowerConfig
    text: TextTowerConfig
    preprocess: Preprocess
    tokenizer: AnyTokenizer = dataclasses.field(default_factory=Tokenizer)
    init_logit_scale: Real = LOGIT_SCALE
    init_logit_bias: Real | None = None

    def __post_init__(self):
        canonicalize(self, as_finite, "init_logit_scale")
        if self.init_logit_bias is not None:
            canonicalize(self, as_finite, "init_logit_bias")
        if self.preprocess.image_size != self.image.image_size:
            raise ValueError(
                f"The preprocessing gives images of size {self.preprocess.image_size}, and the "
                f"image tower takes {self.image.image_size}: give both one `image_size`."
            )
        context_length = self.text.context_length
        if self.tokenizer.context_length != context_length:
            tokenizer = dataclasses.replace(self.tokenizer, context_length=context_length)
            object.__setattr__(self, "tokenizer", tokenizer)

    def resize(
        self,
        image_size: Size | None = None,
        context_length: Count | None = None,
    ) -> "CLIPConfig":
        """This model for images or texts of another size; None keeps what is."""
        config = self
        if image_size is not None:
            preprocess = dataclasses.replace(self.preprocess, image_size=image_size)
            image = dataclasses.replace(self.image, image_size=preprocess.image_size)
            config = dataclasses.replace(config, image=image, preprocess=preprocess)
        if context_length is not None:
            text = dataclasses.replace(self.text, context_length=context_length)
            config = dataclasses.replace(config, text=text)
        return config

    def with_quick_gelu(self) -> "CLIPConfig":
        """This model with the quick GELU in OpenCLIP's own transformers; others keep theirs."""
        image, text = self.image.with_quick_gelu(), self.text.with_quick_gelu()
        return dataclasses.replace(self, image=image, text=text)

    def build(self, *, key: Key) -> "CLIP":
        image_key, text_key = jr.split(check_key(key))
        return CLIP(
            image=self.image.build(key=image_key),
            text=self.text.build(key=text_key),
            logit_scale=self.init_logit_scale,
            logit_bias=self.init_logit_bias,
            preprocess=self.preprocess,
            tokenizer=self.tokenizer,
        )


class CLIP(Module):
    """An image tower and a text tower whose vectors are compared by their cosines.

    Arrays: the towers, `logit_scale` (the log of the learned temperature, as OpenCLIP stores it)
    and `logit_bias` (or None). Static: this checkpoint's `preprocess` and `tokenizer`, so that it
    cannot meet another's. Methods act on one example; map over a batch with `jax.vmap`.
    """

    image: Tower
    text: Tower
    logit_scale: Float[Array, ""]
    logit_bias: Float[Array, ""] | None
    preprocess: Preprocess = eqx.field(static=True)
    tokenizer: AnyTokenizer = eqx.field(static=True)

    def __init__(
        self,
        *,
        image: Tower,
        text: Tower,
        logit_scale: Number | AnyArray = LOGIT_SCALE,
        logit_bias: Number | AnyArray | None = None,
        preprocess: Preprocess | None = None,
        tokenizer: AnyTokenizer | None = None,
    ):
        """**Arguments:**

        - `image`, `text`: modules that map one image, or one row of token ids, to a vector, and
            say its length as `embed_dim`: those of a loaded model, or your own.
        - `logit_scale`: the log of the temperature. `logit_bias`: as SigLIP uses, or None.
        - `preprocess`, `tokenizer`: what turns raw images and texts into the towers' inputs.
            Pass those of the model that a tower was taken from; the defaults are OpenAI's.

        Raises `ValueError` if the towers' vectors differ in length.
        """
        for name, tower in (("image", image), ("text", text)):
            if not hasattr(tower, "embed_dim"):
                raise ValueError(
                    f"The {name} tower, {type(tower).__name__}, must say how long its vectors are: "
                    "give it an attribute or property `embed_dim`."
                )
        if image.embed_dim != text.embed_dim:
            raise ValueError(
                f"The towers must share an embedding: the image tower gives {image.embed_dim} "
                f"numbers, the text tower {text.embed_dim}."
            )
        self.image, self.text = image, text
        self.logit_scale = _scalar(logit_scale)
        self.logit_bias = None if logit_bias is None else _scalar(logit_bias)
        self.preprocess = Preprocess() if preprocess is None else preprocess
        self.tokenizer = Tokenizer() if tokenizer is None else tokenizer

    @property
    def embed_dim(self) -> int:
        return self.image.embed_dim

    @property
    def scale(self) -> Float[Array, ""]:
        """What multiplies the cosines, `exp(logit_scale)`, in at least float32."""
        return jnp.exp(self.logit_scale.astype(at_least_float32(self.logit_scale.dtype)))

    def tokenize(self, texts: TextLike) -> Int32[np.ndarray, "batch context"]:
        """The token ids of one text or several, as OpenCLIP's tokenizer gives them."""
        return self.tokenizer(texts)

    def encode_image(self, image: Input, *, normalize: bool = True) -> Float[Array, " embed"]:
        """The feature of one image, a float array (3, height, width) from `model.preprocess`.

        Of unit norm, in at least float32; with `normalize=False` the image tower's raw projection.
        Source: OpenCLIP's `CLIP.encode_image`, which does not normalise unless told.
        """
        features = self.image(image)
        return unit(features) if normalize else features

    def encode_text(self, tokens: Input, *, normalize: bool = True) -> Float[Array, " embed"]:
        """The feature of one text, an integer array (context,) from `model.tokenize`.

        Of unit norm, in at least float32; with `normalize=False` the text tower's raw projection.
        Source: OpenCLIP's `CLIP.encode_text`, which does not normalise unless told.
        """
        features = self.text(tokens)
        return unit(features) if normalize else features

    def used_lengths(self, tokens: Int[np.ndarray, "batch tokens"]) -> Int[np.ndarray, " batch"]:
        """How many tokens of each row its feature depends on, as the text tower says.

        All of them where the tower does not say it, and in a subclass with an `encode_text` of its
        own.
        """
        own = type(self).encode_text is not CLIP.encode_text
        return used_lengths(None if own else self.text, tokens)

    def logits(self, image_features: Input, text_features: Input) -> Float[Array, "*images_texts"]:
        """Scaled cosines of unit vectors, (images, embed) and (texts, embed) to (images, texts).

        `exp(logit_scale) * cosine + logit_bias`: OpenCLIP's `CLIP.get_logits`. Either side may be
        one vector. Raises `ValueError` for features of another width than this model's.
        """
        check_features(image_features, text_features, self.embed_dim)
        cosines = _cosines(as_array(image_features), as_array(text_features))
        logits = self.scale.astype(cosines.dtype) * cosines
        return logits if self.logit_bias is None else logits + self.logit_bias


def _rows_by_columns(images: Array, texts: Array) -> P:
    """Logits lie as their images do, and as their texts do where no image's axis is the same."""
    rows, columns = (P(*jax.typeof(x).sharding.spec[:-1]) for x in (images, texts))
    names = (set(jax.tree.leaves(tuple(spec))) for spec in (rows, columns))
    return P(*rows, *columns) if set.isdisjoint(*names) else rows


@functools.partial(automatic, out_spec=_rows_by_columns)
def _cosines(images: Array, texts: Array) -> Array:
    return images @ texts.T


# Compiled, also where nothing else is; in what is compiled it leaves no trace of its own.
@functools.partial(jax.jit, inline=True)
def unit(features: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
    """Vectors of norm one, in at least float32: `torch.nn.functional.normalize`."""
    features = features.astype(at_least_float32(features.dtype))
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)


def _scalar(value: Number | AnyArray) -> Float[Array, ""]:
    # Never weakly typed: such a scalar turns strong in its first train step, which retraces it.
    return jnp.asarray(value, dtype=value.dtype if isinstance(value, AnyArray) else jnp.float32)
