"""Raw images to what an image tower reads: OpenCLIP's evaluation transform, without torch."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from jax import Array
from jaxtyping import Float32, UInt8
from PIL import Image

from .._checks import MAX_SIDE, did_you_mean, is_finite, short_repr
from .._types import ImageLike
from .decode import to_rgb


# Silent at run time, as `ImageLike` is: a wrong value meets a `ValueError` with the remedy first,
# and what a JSON file holds (lists, one number for all channels) is brought to these types.
if TYPE_CHECKING:
    ImageSize = int | tuple[int, int]
    PerChannel = tuple[float, float, float]
    Rng = np.random.Generator | None
    Draft = Literal[1, 2] | None
    Name = str
    GreyLevel = int
else:
    ImageSize = PerChannel = Rng = Draft = Name = GreyLevel = Any

Pixels = TypeVar("Pixels", np.ndarray, Array)

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_TINY = float(np.finfo(np.float32).tiny)  # 0 in float32 below it
_RESIZE_MODES = ("shortest", "longest", "squash")


class AbstractTransform(abc.ABC):
    """What `Preprocess` and `Augment` share: a target size, and statistics to normalise with.

    Subclasses are frozen dataclasses: they compare and hash by value, so they can be static.
    """

    image_size: ImageSize
    mean: PerChannel
    std: PerChannel
    draft: Draft

    @property
    def height(self) -> int:
        return self.image_size if isinstance(self.image_size, int) else self.image_size[0]

    @property
    def width(self) -> int:
        return self.image_size if isinstance(self.image_size, int) else self.image_size[1]

    @abc.abstractmethod
    def pixels(self, image: ImageLike, rng: Rng = None) -> UInt8[np.ndarray, "3 height width"]:
        """The image at the target size, uint8 (3, height, width)."""

    def normalize(self, pixels: Pixels) -> Pixels:
        """(pixels / 255 - mean) / std in float32, for uint8 pixels (..., 3, height, width).

        NumPy in, NumPy out, equal to the bit to torchvision's `ToTensor` and `Normalize`. JAX in,
        JAX out, inside `jax.jit` too: a batch travels as uint8 and is normalised on the device.
        Raises `ValueError` for another dtype, and where the third axis from the end is not 3.
        """
        dtype = getattr(pixels, "dtype", type(pixels).__name__)
        if dtype != np.uint8:
            raise ValueError(
                f"Expected uint8 pixels; got {dtype}. Floating-point pixels may be normalised "
                "already; values from 0 to 1 become pixels by `(255 * x).round().astype(np.uint8)`."
            )
        if pixels.ndim < 3 or pixels.shape[-3] != 3:
            channels_last = pixels.ndim >= 3 and pixels.shape[-1] == 3
            remedy = " Transpose them: `np.moveaxis(pixels, -1, -3)`." if channels_last else ""
            raise ValueError(
                f"Expected pixels (..., 3, height, width); got shape {pixels.shape}.{remedy}"
            )
        # As many axes as the pixels have, for users who forbid JAX to promote ranks.
        shape = (1,) * (pixels.ndim - 3) + (3, 1, 1)
        mean = np.array(self.mean, np.float32).reshape(shape)
        std = np.array(self.std, np.float32).reshape(shape)
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def __call__(self, image: ImageLike, rng: Rng = None) -> Float32[np.ndarray, "3 height width"]:
        """`normalize(pixels(image, rng))`: float32 (3, height, width)."""
        return self.normalize(self.pixels(image, rng))


@dataclasses.dataclass(frozen=True)
class Preprocess(AbstractTransform):
    """OpenCLIP's evaluation transform, to the bit: resize, crop or pad, scale to 0..1, normalise.

    It is `open_clip.image_transform(..., is_train=False)` of the image after `convert("RGB")`,
    which is what OpenCLIP's webdataset pipeline does. (Its CSV pipeline resizes first, so palette
    images and images with transparency come out differently there.)

    - `image_size`: one number for a square, or (height, width).
    - `mean`, `std`: of red, green and blue from 0 to 1; one number stands for three.
    - `interpolation`: "bicubic" or "bilinear", antialiased. OpenCLIP's "random" means bicubic
      outside training, and becomes it here.
    - `resize_mode`: "shortest" covers the target and crops the centre, "longest" fits inside it and
      pads with `fill_color`, "squash" ignores the aspect ratio.
    - `fill_color`: the grey level of the padding, from 0 to 255.
    - `draft`: None decodes exactly. 2 lets JPEGs be decoded at a half, a quarter or an eighth of
      their size, as long as that is at least twice what is needed, 1 as long as it is enough:
      large JPEGs become 2 and 3 times as fast, and pixels differ a little. It is a setting of
      this program, not of a checkpoint: `dataclasses.replace(model.preprocess, draft=2)`.

    Equal transforms compare and hash equal, however they were written. Raises `ValueError` for a
    value out of range.
    """

    image_size: ImageSize = 224
    mean: PerChannel = OPENAI_MEAN
    std: PerChannel = OPENAI_STD
    interpolation: Name = "bicubic"
    resize_mode: Name = "shortest"
    fill_color: GreyLevel = 0
    draft: Draft = None

    def __post_init__(self):
        set_target(self)
        _check_is_one_of("resize_mode", self.resize_mode, _RESIZE_MODES)
        _check_is_one_of("interpolation", self.interpolation, (*_FILTERS, "random"))
        if self.interpolation == "random":
            object.__setattr__(self, "interpolation", "bicubic")
        grey = "a whole number from 0 to 255"
        (fill,) = canonical("fill_color", self.fill_color, 1, grey, lambda x: x[0] in range(256))
        object.__setattr__(self, "fill_color", int(fill))

    def pixels(self, image: ImageLike, rng: Rng = None) -> UInt8[np.ndarray, "3 height width"]:
        """The image at the target size, uint8 (3, height, width).

        `rng` is not used: `Preprocess` can stand wherever `Augment` can. Raises `ValueError` for
        what is not one whole image, and `OSError` for a file that cannot be opened.
        """
        rgb = to_rgb(image, self._reduction if self.draft else None)
        if self.resize_mode == "shortest":
            return channels_first(self._crop(self._cover(rgb)))
        if self.resize_mode == "longest":
            return channels_first(self._pad(self._fit(rgb)))
        return channels_first(rgb.resize((self.width, self.height), _FILTERS[self.interpolation]))

    def _reduction(self, width: int, height: int) -> float:
        across, down = width / self.width, height / self.height
        nearest = max(across, down) if self.resize_mode == "longest" else min(across, down)
        return nearest / self.draft if self.draft else 1

    def _cover(self, image: Image.Image) -> Image.Image:
        """The smallest version of the image that covers the target, rounded as OpenCLIP rounds."""
        if isinstance(self.image_size, int):
            shortest = min(image.size)
            width, height = (self.image_size * edge // shortest for edge in image.size)
            resample = _FILTERS[self.interpolation]
        else:
            ratio = min(image.width / self.width, image.height / self.height)
            width, height = (round(edge / ratio) for edge in image.size)
            # OpenCLIP does not pass its interpolation on to this branch, whose default is bicubic.
            resample = Image.Resampling.BICUBIC
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > 2 * limit:
            raise ValueError(
                f"The image, {image.width} wide and {image.height} high, is too long and thin: "
                f"covering the target it has {width * height} pixels, more than twice "
                f"PIL.Image.MAX_IMAGE_PIXELS ({limit}). Skip it, or use another `resize_mode`."
            )
        return image.resize((width, height), resample)

    def _fit(self, image: Image.Image) -> Image.Image:
        """The largest version of the image inside the target: 1 pixel thin where OpenCLIP fails."""
        ratio = max(image.width / self.width, image.height / self.height)
        width, height = (max(1, round(edge / ratio)) for edge in image.size)
        return image.resize((width, height), _FILTERS[self.interpolation])

    def _crop(self, image: Image.Image) -> Image.Image:
        left = round((image.width - self.width) / 2)
        top = round((image.height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))

    def _pad(self, image: Image.Image) -> Image.Image:
        padded = Image.new("RGB", (self.width, self.height), (self.fill_color,) * 3)
        padded.paste(image, ((self.width - image.width) // 2, (self.height - image.height) // 2))
        return padded


def channels_first(image: Image.Image) -> UInt8[np.ndarray, "3 height width"]:
    """The pixels of an RGB image, contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def set_target(transform: AbstractTransform) -> None:
    """Brings `image_size`, `mean` and `std` of a new transform to their one form."""

    def repeated(value, count):
        return (value,) * count if isinstance(value, Real) else value

    pair = canonical(
        "image_size",
        repeated(transform.image_size, 2),
        2,
        f"a positive whole number up to {MAX_SIDE}, or (height, width)",
        lambda size: all(1 <= edge <= MAX_SIDE and edge.is_integer() for edge in size),
    )
    height, width = (int(edge) for edge in pair)
    mean, std = repeated(transform.mean, 3), repeated(transform.std, 3)
    canonicals = {
        "image_size": height if height == width else (height, width),
        "mean": canonical("mean", mean, 3, "a number, or three", lambda mean: True),
        "std": canonical(
            "std", std, 3, "a positive number, or three", lambda std: min(std) >= _TINY
        ),
    }
    if transform.draft not in (None, 1, 2):
        raise ValueError(f"`draft` must be None, 1 or 2; got {short_repr(transform.draft)}.")
    for name, value in canonicals.items():
        object.__setattr__(transform, name, value)


def canonical(
    name: str, value: Any, count: int, expected: str, holds: Callable[[tuple[float, ...]], bool]
) -> tuple[float, ...]:
    """`value`, one number or several, as `count` floats for which `holds`, or a `ValueError`."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    if len(values) == count and all(is_finite(number) for number in values):
        floats = tuple(float(number) for number in values)
        if holds(floats):
            return floats
    raise ValueError(f"`{name}` must be {expected}; got {short_repr(value)}.")


def _check_is_one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise ValueError(
            f"`{name}` must be one of {', '.join(allowed)}; got {short_repr(value)}.{hint}"
        )
