"""Random crops and colours for training: OpenCLIP's training transform as a pure function."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from .._types import ImageLike
from .decode import to_rgb
from .preprocess import (
    OPENAI_MEAN,
    OPENAI_STD,
    AbstractTransform,
    Draft,
    ImageSize,
    PerChannel,
    Rng,
    canonical,
    channels_first,
    set_target,
)


if TYPE_CHECKING:  # silent at run time, as in `_preprocess`
    Range = tuple[float, float]
    Jitter = tuple[float, float, float, float] | None
    Probability = float
else:
    Range = Jitter = Probability = Any


@dataclasses.dataclass(frozen=True)
class Augment(AbstractTransform):
    """OpenCLIP's training transform: a random crop, resized; on request a flip, jitter and grey.

    The distribution is that of `open_clip.image_transform(..., is_train=True)`, and the pixels are
    the same to the bit for the same draws. The augmentation that belongs to a checkpoint is
    `Augment(p.image_size, p.mean, p.std)` with its `p = model.preprocess`.

    - `image_size`, `mean`, `std`: as in `Preprocess`. Crops are resized bicubically, whatever the
      checkpoint's interpolation and resize mode are, as OpenCLIP does.
    - `scale`: the range of the crop's share of the area, uniform. `ratio`: the range of its
      width / height, log-uniform. As torchvision's `RandomResizedCrop`.
    - `flip`: the probability of a left-right flip. OpenCLIP has none (captions say "left").
    - `color_jitter`: (brightness, contrast, saturation, hue), as torchvision's `ColorJitter`: the
      first three multiply by a factor from 1 - x (at least 0) to 1 + x, the hue moves by up to x of
      a turn, at most 0.5, in random order. None does not jitter.
    - `color_jitter_prob`: the share of images that a given `color_jitter` applies to. The default
      is that of OpenCLIP's `color_jitter` class, so that asking for jitter is enough to get it.
    - `grayscale_prob`: the share of images that become grey.
    - `draft`: decodes large JPEGs faster, as in `Preprocess`, where the crop is large enough.

    Raises `ValueError` for any value out of range.
    """

    image_size: ImageSize = 224
    mean: PerChannel = OPENAI_MEAN
    std: PerChannel = OPENAI_STD
    scale: Range = (0.9, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: Probability = 0.0
    color_jitter: Jitter = None
    color_jitter_prob: Probability = 0.8
    grayscale_prob: Probability = 0.0
    draft: Draft = None

    def __post_init__(self):
        set_target(self)
        self._set("scale", 2, "0 < low <= high <= 1", lambda scale: 0 < scale[0] <= scale[1] <= 1)
        self._set("ratio", 2, "0 < low <= high", lambda ratio: 0 < ratio[0] <= ratio[1])
        if self.color_jitter is not None:
            expected = "(brightness, contrast, saturation, hue), none negative, hue at most 0.5"
            self._set("color_jitter", 4, expected, lambda x: min(x) >= 0 and x[3] <= 0.5)
        for name in ("flip", "color_jitter_prob", "grayscale_prob"):
            self._set(name, 1, "a probability from 0 to 1", lambda p: 0 <= p[0] <= 1)

    def _set(self, name: str, count: int, expected: str, holds: Callable) -> None:
        values = canonical(name, getattr(self, name), count, expected, holds)
        object.__setattr__(self, name, values if count > 1 else values[0])

    def pixels(self, image: ImageLike, rng: Rng = None) -> UInt8[np.ndarray, "3 height width"]:
        """A random version of the image at the target size, uint8 (3, height, width).

        All randomness is drawn from `rng`, a `np.random.Generator`, and nothing else is touched:
        the same image and the same state of `rng` give the same pixels. How many numbers are drawn
        depends on the image, so where an image must not depend on its neighbours, give it its own
        generator: `np.random.default_rng((seed, epoch, index))`.

        Raises `ValueError` without a generator and for what is not one whole image, and `OSError`
        for a file that cannot be opened.
        """
        if not isinstance(rng, np.random.Generator):
            raise ValueError(
                "Augment draws from a NumPy generator: pass rng=np.random.default_rng(seed). "
                f"Got {type(rng).__name__}."
            )
        result = self._resized_crop(image, rng)
        if _happens(self.flip, rng):
            result = result.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.color_jitter and _happens(self.color_jitter_prob, rng):
            result = jittered(result, self.color_jitter, rng)
        if _happens(self.grayscale_prob, rng):
            result = result.convert("L").convert("RGB")
        return channels_first(result)

    def _resized_crop(self, image: ImageLike, rng: np.random.Generator) -> Image.Image:
        size, drawn = (self.width, self.height), []

        def reduction(width: int, height: int) -> float:
            """Draws the crop: by how much it is too large says how fast the image is decoded."""
            box = left, top, right, bottom = crop_box(width, height, self.scale, self.ratio, rng)
            drawn.append((width, height, box))
            return min((right - left) / self.width, (bottom - top) / self.height) / (
                self.draft or 1
            )

        rgb = to_rgb(image, reduction if self.draft else None)
        if not drawn:
            reduction(rgb.width, rgb.height)
        width, height, (left, top, right, bottom) = drawn[0]
        if rgb.size == (width, height):  # exact: as torchvision crops and resizes
            return rgb.crop((left, top, right, bottom)).resize(size, Image.Resampling.BICUBIC)
        x, y = rgb.width / width, rgb.height / height
        box = left * x, top * y, min(right * x, rgb.width), min(bottom * y, rgb.height)
        return rgb.resize(size, Image.Resampling.BICUBIC, box)


def _happens(probability: float, rng: np.random.Generator) -> bool:
    return probability > 0 and rng.random() < probability


def crop_box(
    width: int, height: int, scale: Range, ratio: Range, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random crop: torchvision's `RandomResizedCrop.get_params`."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return left, top, left + crop_width, top + crop_height
    # None fitted, so the image is long or tiny: its centre, at the nearest allowed ratio.
    crop_width = min(width, max(1, round(height * ratio[1])))
    crop_height = min(height, max(1, round(width / ratio[0])))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def jittered(
    image: Image.Image, strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> Image.Image:
    """The image with random changes of colour, in random order: torchvision's `ColorJitter`."""
    order = rng.permutation(4)
    low = [max(0.0, 1 - x) for x in strengths[:3]] + [-strengths[3]]
    high = [1 + x for x in strengths[:3]] + [strengths[3]]
    # A strength of 0 is left out: even a hue shift of 0 would round through HSV.
    factors = {i: rng.uniform(low[i], high[i]) for i in range(4) if strengths[i] > 0}
    for index in order:
        if index in factors:
            image = _ADJUSTMENTS[index](image, factors[index])
    return image


def _adjust_hue(image: Image.Image, turns: float) -> Image.Image:
    """The image with its hue shifted by whole 256ths of a turn: torchvision's `adjust_hue`."""
    shift = int(turns * 255)
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


_ADJUSTMENTS = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    _adjust_hue,
)
