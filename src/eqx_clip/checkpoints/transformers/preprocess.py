"""transformers' `preprocessor_config.json`, read into `Preprocess` and written back."""

from collections.abc import Mapping
from typing import Any

from ..._checks import is_finite, short_repr
from ...images.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess


_SHARED = {
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}
_HALF = (0.5, 0.5, 0.5)


def _clip(size: Any) -> dict[str, Any]:
    return {
        **_SHARED,
        "size": {"shortest_edge": size},
        "do_center_crop": True,
        "crop_size": size,
        "image_mean": OPENAI_MEAN,
        "image_std": OPENAI_STD,
    }


def _siglip(size: Any) -> dict[str, Any]:
    return {
        **_SHARED,
        "size": {"height": size, "width": size},
        "do_center_crop": False,
        "crop_size": None,
        "image_mean": _HALF,
        "image_std": _HALF,
    }


# What transformers' image processors take where nothing is said, for images of a size.
_DEFAULTS = {"CLIPImageProcessor": _clip, "SiglipImageProcessor": _siglip}
_DEFAULT_SIZE = 224
_CLASSES = {"shortest": "CLIPImageProcessor", "squash": "SiglipImageProcessor"}
_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def preprocess_from_transformers(
    config: Mapping[str, Any], image_size: Any, usual: str
) -> Preprocess:
    """The transform that an image processor's configuration describes; an empty one is the default
    for images of `image_size`. `usual` is the class of processors where it names none of ours.

    Its pixels are those of transformers but for the crop: where an odd number of pixels is left
    over, transformers rounds down and OpenCLIP, and so `Preprocess`, to the even half. Raises
    `ValueError` for what `Preprocess` cannot do. Source: transformers' `CLIPImageProcessor` and
    `SiglipImageProcessor`.
    """
    named = str(config.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
    defaults = _DEFAULTS.get(named, _DEFAULTS[usual])
    options = {**defaults(_DEFAULT_SIZE if config else image_size), **config}
    for switch in ("do_resize", "do_rescale", "do_normalize"):
        if options[switch] is not True:
            raise ValueError(f"`{switch}={short_repr(options[switch])}` must be true.")
    factor = options["rescale_factor"]
    if not is_finite(factor) or abs(factor * 255 - 1) > 1e-6:
        raise ValueError(f"`rescale_factor={short_repr(factor)}` must be 1 / 255.")
    if options["resample"] not in tuple(_FILTERS):
        raise ValueError(
            f"`resample={short_repr(options['resample'])}` is not supported; supported: 2, "
            "bilinear, and 3, bicubic."
        )
    target, mode = _target(options["size"], options["crop_size"], options["do_center_crop"])
    return Preprocess(
        image_size=target,
        mean=options["image_mean"],
        std=options["image_std"],
        interpolation=_FILTERS[options["resample"]],
        resize_mode=mode,
    )


def _target(size: Any, crop_size: Any, crops: Any) -> tuple[tuple[Any, Any], str]:
    """The height and width of the pixels, and how images are resized to them."""
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if crops and _sides(crop_size) == (shortest, shortest):
        return (shortest, shortest), "shortest"
    if not crops and shortest is None:
        return _sides(size), "squash"
    raise ValueError(
        f"`size={short_repr(size)}` with `crop_size={short_repr(crop_size)}` and "
        f"`do_center_crop={short_repr(crops)}` is not supported: images are resized by the "
        "shortest edge and cropped to a square of it, or resized to a height and a width."
    )


def _sides(size: Any) -> tuple[Any, Any]:
    if isinstance(size, Mapping):
        if {"height", "width"} <= set(size):
            return size["height"], size["width"]
        raise ValueError(
            f"A size must be a number, or a height and a width; got {short_repr(size)}."
        )
    return size, size


def preprocess_to_transformers(preprocess: Preprocess) -> dict[str, Any]:
    """A `preprocessor_config.json`. `ValueError` for what transformers cannot do."""
    height, width = preprocess.height, preprocess.width
    if preprocess.resize_mode == "shortest" and height == width:
        sizes = {"size": {"shortest_edge": height}, "do_center_crop": True}
    elif preprocess.resize_mode == "squash":
        sizes = {"size": {"height": height, "width": width}, "do_center_crop": False}
    else:
        raise ValueError(
            "transformers' image processors cover a square, or squash images; this model's is "
            f"{preprocess}."
        )
    filters = {name: number for number, name in _FILTERS.items()}
    return {
        "image_processor_type": _CLASSES[preprocess.resize_mode],
        "do_convert_rgb": True,
        "do_resize": True,
        **sizes,
        "crop_size": {"height": height, "width": width},
        "resample": filters[preprocess.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
